-- Ends a session. ARGV: from 3 the groups' channels.
redis.call('DEL', SESSION)
local others = namesakes()
if #others > 0 then
  redis.call('SET', HEARTBEAT, table.concat(others, ' '), 'KEEPTTL')
elseif string.find(redis.call('GET', HEARTBEAT) or '', ID, 1, true) then
  redis.call('DEL', HEARTBEAT)
end
for i = 3, #KEYS, 2 do
  local record = redis.call('HGET', KEYS[i + 1], 'm:' .. MEMBER)
  if record and string.match(record, '^%x+') == ID then
    redis.call('HDEL', KEYS[i], MEMBER)
    redis.call('HDEL', KEYS[i + 1], 'm:' .. MEMBER)
    redis.call('PUBLISH', ARGV[(i + 3) / 2], 'members')
  end
end
return 1
