-- What there is of a namespace but its groups and its counter. ARGV: 1 the namespace.
local found = {}
for _, key in ipairs(redis.call('KEYS', '*' .. ARGV[1] .. '*')) do
  if string.find(key, '_group:', 1, true) and redis.call('TYPE', key).ok == 'hash' then
    for _, member in ipairs(redis.call('HKEYS', key)) do
      if member ~= '__created__' then
        found[#found + 1] = 'member ' .. member .. ' in ' .. key
      end
    end
  elseif not (string.find(key, ':group:', 1, true) or string.find(key, ':counter$')
      or string.find(key, '_groups$')) then
    found[#found + 1] = 'key ' .. key
  end
end
return found
