-- Ends a session. KEYS: from 3 for each group its hash and its companion.
-- ARGV: 2 member, then the groups' channels.
redis.call('DEL', KEYS[1])
local others = namesakes()
if #others > 0 then
  redis.call('SET', KEYS[2], table.concat(others, ' '), 'KEEPTTL')
elseif string.find(redis.call('GET', KEYS[2]) or '', ARGV[1], 1, true) then
  redis.call('DEL', KEYS[2])
end
for i = 3, #KEYS, 2 do
  local record = redis.call('HGET', KEYS[i + 1], 'm:' .. ARGV[2])
  if record and string.match(record, '^%x+') == ARGV[1] then
    redis.call('HDEL', KEYS[i], ARGV[2])
    redis.call('HDEL', KEYS[i + 1], 'm:' .. ARGV[2])
    redis.call('PUBLISH', ARGV[(i + 3) / 2], 'members')
  end
end
return 1
