-- Renews many locks. KEYS: for each the readers and the spellings of its key. ARGV: the time to live
-- in milliseconds, then for each the number of spellings, the mode, the value or the reader, the
-- epoch. Returns for each whether it is still ours.
local ttl = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = math.floor((time[1] * 1000000 + time[2]) / 1000)
local result = {}
local k, a = 1, 2
while ARGV[a] do
  local count, mode, value, epoch = tonumber(ARGV[a]), ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  local readers = KEYS[k]
  local expected = value
  local ours = 1
  if mode == 's' then
    expected = 'shared:' .. epoch
    local expires = redis.call('ZSCORE', readers, value)
    if not expires or tonumber(expires) <= now then
      ours = 0
    end
  end
  for i = k + 1, k + count do
    if redis.call('GET', KEYS[i]) ~= expected then
      ours = 0
    end
  end
  if ours == 1 then
    local left = ttl
    if mode == 's' then
      left = math.max(ttl, redis.call('PTTL', readers))
      -- First: a server without memory refuses ZADD, but not behind a first write.
      redis.call('PEXPIRE', readers, left)
      redis.call('ZADD', readers, now + ttl, value)
    end
    for i = k + 1, k + count do
      redis.call('PEXPIRE', KEYS[i], left)
    end
  end
  result[#result + 1] = ours
  k, a = k + 1 + count, a + 4
end
return result
