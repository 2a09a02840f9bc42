-- Returns 1, -4 if the session is over, -1 without the group, -2 if the member is not in it.
-- Without its session nobody is a member, so what is left of the membership goes in that case too.
local member = ARGV[3]
local own = is_callers(member)
if own then
  drop(member)
  changed()
end
if session_is_over() then
  return -4
end
if redis.call('EXISTS', GROUP) == 0 then
  return -1
end
return own and 1 or -2
