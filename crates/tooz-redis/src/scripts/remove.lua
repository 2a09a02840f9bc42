-- Returns 1, -4 if the session is over, -1 without the group, -2 if the member is not in it. A member
-- of ours that listens is told.
local member, session_channels = ARGV[3], ARGV[4]
if session_is_over() then
  return -4
end
if redis.call('EXISTS', GROUP) == 0 then
  return -1
end
if redis.call('HEXISTS', GROUP, member) == 0 or not ttl_of(member) then
  return -2
end
local session, operation = joined_by(member)
drop(member)
changed()
if session then
  redis.call('PUBLISH', session_channels .. session, 'broken:' .. operation)
end
return 1
