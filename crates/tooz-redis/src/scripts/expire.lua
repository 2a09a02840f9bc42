-- Does what the server does when a member's sessions expire, with what depends on them.
-- ARGV: 1 the namespace, 2 the member. Returns how many sessions there were.
local member, sessions = ARGV[2], 0
local function ends_with(text, ending)
  return string.sub(text, -#ending) == ending
end
for _, key in ipairs(redis.call('KEYS', '*' .. ARGV[1] .. '*')) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'string' then
    local value = redis.call('GET', key)
    if string.find(key, ':session:', 1, true) and value == member then
      sessions = sessions + 1
      redis.call('DEL', key)
    elseif ends_with(key, '_beats:' .. member)
        or string.match(value, '^%x+:%d+:%x+:(.*)$') == member then
      redis.call('DEL', key)
    end
  elseif kind == 'hash' and string.find(key, '_group:', 1, true) then
    redis.call('HDEL', key, member)
  elseif kind == 'zset' and string.find(key, ':readers:', 1, true) then
    for _, reader in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      if string.match(reader, '^%x+:%x+:(.*)$') == member then
        redis.call('ZREM', key, reader)
      end
    end
  end
end
return sessions
