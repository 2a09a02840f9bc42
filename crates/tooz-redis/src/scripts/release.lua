-- `value` is the lock's, or the reader. Returns whether it was ours.
local mode, value, epoch = ARGV[3], ARGV[4], ARGV[5]
local released = 1
if mode == 's' then
  reap_readers()
  released = redis.call('ZREM', READERS, value)
  if holder() == 'shared:' .. epoch then
    keep_marker(epoch)
  else
    released = 0
  end
else
  for key in spellings() do
    if redis.call('GET', key) == value then
      redis.call('DEL', key)
    else
      released = 0
    end
  end
  announce()
end
grant()
return released
