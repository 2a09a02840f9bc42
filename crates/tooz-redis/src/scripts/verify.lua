-- ARGV: 3 mode, 4 the lock's value or the reader, 5 epoch. Returns whether it is ours.
if ARGV[3] ~= 's' then
  return holder() == ARGV[4] and 1 or 0
end
local expires = redis.call('ZSCORE', READERS, ARGV[4])
return holder() == 'shared:' .. ARGV[5] and expires and tonumber(expires) > now_ms() and 1 or 0
