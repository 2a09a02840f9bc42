-- `again` says that a remnant of this coordinator's is to be replaced. Returns 1, -4 if the session
-- is over, -1 without the group, -2 if the member is in it: then nothing has changed.
local counter = KEYS[4]
local member, capabilities, session, operation = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local again, session_channels = ARGV[7] == '1', ARGV[8]
if session_is_over() then
  return -4
end
if redis.call('EXISTS', GROUP) == 0 then
  return -1
end
if redis.call('HEXISTS', GROUP, member) == 1 and not again then
  local its_session, its_operation = joined_by(member)
  if its_operation == operation then
    return 1
  end
  -- What an earlier process of this id left when it died has nobody who listens.
  if not its_session or its_session == session then
    return -2
  end
  if redis.call('PUBSUB', 'NUMSUB', session_channels .. its_session)[2] ~= 0 then
    return -2
  end
end
local now = string.format('%.0f', now_ms())
local number = next_number(counter)
redis.call('HSET', GROUP, member, capabilities)
local record = table.concat({ session, operation, number, now, now }, ':')
redis.call('HSET', COMPANION, 'm:' .. member, record)
changed()
return 1
