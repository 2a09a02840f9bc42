-- KEYS: 4 the counter. ARGV: 3 member, 4 capabilities, 5 session, 6 operation, 7 whether a remnant
-- is to be replaced, 8 the prefix of the sessions' channels.
-- Returns 1, -4 if the session is over, -1 without the group, -2 if the member is in it: then nothing has changed.
if session_is_over() then
  return -4
end
if redis.call('EXISTS', GROUP) == 0 then
  return -1
end
local field = 'm:' .. ARGV[3]
if redis.call('HEXISTS', GROUP, ARGV[3]) == 1 and ARGV[7] ~= '1' then
  local session, operation = joined_by(ARGV[3])
  if operation == ARGV[6] then
    return 1
  end
  -- What an earlier process of this id left when it died has nobody who listens.
  if not session or session == ARGV[5] then
    return -2
  end
  if redis.call('PUBSUB', 'NUMSUB', ARGV[8] .. session)[2] ~= 0 then
    return -2
  end
end
local now = string.format('%.0f', now_ms())
local number = next_number(KEYS[4])
redis.call('HSET', GROUP, ARGV[3], ARGV[4])
local record = table.concat({ ARGV[5], ARGV[6], number, now, now }, ':')
redis.call('HSET', COMPANION, field, record)
changed()
return 1
