-- ARGV: 3 member. Returns 1, -4 if the session is over, -1 without the group, -2 if the member is not in it.
-- Without its session nobody is a member, so what is left of the membership goes all the same.
local own = is_callers(ARGV[3])
if own then
  drop(ARGV[3])
  changed()
end
if session_is_over() then
  return -4
end
if redis.call('EXISTS', GROUP) == 0 then
  return -1
end
return own and 1 or -2
