-- Returns 1, -4 if the session is over, -1 without the group, -2 if the member is not in it.
local member, capabilities = ARGV[3], ARGV[4]
if session_is_over() then
  return -4
end
if redis.call('EXISTS', GROUP) == 0 then
  return -1
end
if not is_callers(member) then
  return -2
end
redis.call('HSET', GROUP, member, capabilities)
local field = 'm:' .. member
local record = redis.call('HGET', COMPANION, field)
local joined = record and string.match(record, '^(%x+:%x+:%d+:%d+:)')
if joined then
  redis.call('HSET', COMPANION, field, joined .. string.format('%.0f', now_ms()))
end
changed()
return 1
