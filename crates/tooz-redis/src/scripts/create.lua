-- KEYS: 4 the set of groups. ARGV: 3 group, 4 operation. Returns 1, or 0 if it exists.
if redis.call('EXISTS', GROUP) == 1 then
  return redis.call('HGET', COMPANION, 'created') == ARGV[4] and 1 or 0
end
-- First, because a server without memory refuses it, and not what follows a first write.
redis.call('SADD', KEYS[4], ARGV[3])
redis.call('DEL', COMPANION)
redis.call('HSET', GROUP, '__created__', '1')
redis.call('HSET', COMPANION, 'created', ARGV[4])
return 1
