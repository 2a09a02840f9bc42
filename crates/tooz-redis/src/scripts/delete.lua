-- KEYS: 4 the set of groups. ARGV: 3 group. Returns 1, -1 if there is none, -3 if it has members.
if redis.call('EXISTS', GROUP) == 0 then
  return -1
end
for _, member in ipairs(redis.call('HKEYS', GROUP)) do
  if member ~= '__created__' and life_of(member) then
    return -3
  end
end
redis.call('SREM', KEYS[4], ARGV[3])
redis.call('DEL', GROUP, COMPANION)
changed()
return 1
