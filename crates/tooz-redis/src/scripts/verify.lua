-- `value` is the lock's, or the reader. Returns whether it is ours.
local mode, value, epoch = ARGV[3], ARGV[4], ARGV[5]
if mode ~= 's' then
  return holder() == value and 1 or 0
end
local expires = redis.call('ZSCORE', READERS, value)
return holder() == 'shared:' .. epoch and expires and tonumber(expires) > now_ms() and 1 or 0
