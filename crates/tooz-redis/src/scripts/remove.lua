-- ARGV: 3 member, 4 the prefix of the sessions' channels. Returns 1, -4 if the session is over,
-- -1 without the group, -2 if the member is not in it. A member of ours that listens is told.
if session_is_over() then
  return -4
end
if redis.call('EXISTS', GROUP) == 0 then
  return -1
end
if redis.call('HEXISTS', GROUP, ARGV[3]) == 0 or not life_of(ARGV[3]) then
  return -2
end
local session, operation = joined_by(ARGV[3])
drop(ARGV[3])
changed()
if session then
  redis.call('PUBLISH', ARGV[4] .. session, 'broken:' .. operation)
end
return 1
