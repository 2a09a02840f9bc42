-- ARGV: 3 member. Returns 1, -4 if the session is over, -1 without the group, -2 if the member is not in it.
-- Without its session nobody is a member, so what is left of the membership goes all the same.
if session_is_over() then
  if drop(ARGV[3]) == 1 then
    changed()
  end
  return -4
end
if redis.call('EXISTS', GROUP) == 0 then
  return -1
end
if drop(ARGV[3]) == 0 then
  return -2
end
changed()
return 1
