-- ARGV: 3 mode, 4 the lock's value or the reader, 5 epoch. Returns whether it was ours.
local released = 1
if ARGV[3] == 's' then
  forget_dead_readers()
  released = redis.call('ZREM', READERS, ARGV[4])
  if holder() == 'shared:' .. ARGV[5] then
    keep_marker(ARGV[5])
  else
    released = 0
  end
else
  for key in spellings() do
    if redis.call('GET', key) == ARGV[4] then
      redis.call('DEL', key)
    else
      released = 0
    end
  end
  announce()
end
grant()
return released
