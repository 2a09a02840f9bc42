-- KEYS: 1 the group's hash, then the spellings of the leader's key. Returns whether the group
-- exists, the value, and its time to live in milliseconds.
local exists = redis.call('EXISTS', KEYS[1])
for i = 2, #KEYS do
  local value = redis.call('GET', KEYS[i])
  if value then
    return { exists, value, redis.call('PTTL', KEYS[i]) }
  end
end
return { exists, '', -1 }
