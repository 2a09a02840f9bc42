-- Returns 1, -1 if there is none, -3 if it has members.
local groups, group = KEYS[4], ARGV[3]
if redis.call('EXISTS', GROUP) == 0 then
  return -1
end
for _, member in ipairs(redis.call('HKEYS', GROUP)) do
  if member ~= '__created__' and ttl_of(member) then
    return -3
  end
end
redis.call('SREM', groups, group)
redis.call('DEL', GROUP, COMPANION)
changed()
return 1
