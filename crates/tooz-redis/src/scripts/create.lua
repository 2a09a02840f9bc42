-- Returns 1, or 0 if it exists.
local groups, group, operation = KEYS[4], ARGV[3], ARGV[4]
if redis.call('EXISTS', GROUP) == 1 then
  return redis.call('HGET', COMPANION, 'created') == operation and 1 or 0
end
-- First, because a server without memory refuses it, and not what follows a first write.
redis.call('SADD', groups, group)
redis.call('DEL', COMPANION)
redis.call('HSET', GROUP, '__created__', '1')
redis.call('HSET', COMPANION, 'created', operation)
return 1
