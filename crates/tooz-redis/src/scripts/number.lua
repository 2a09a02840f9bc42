-- Numbers that strictly rise, also after a restart that forgot them: the server's clock in
-- microseconds, or one more than the last. The counter's key is common to a namespace.
local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

-- As text, and raised by the server: Lua's own numbers are exact up to 2^53 only.
local function next_number(counter)
  local number = string.format('%.0f', now_us())
  local last = redis.call('GET', counter) or ''
  if #last > #number or #last == #number and last >= number then
    redis.call('INCR', counter)
    return redis.call('GET', counter)
  end
  redis.call('SET', counter, number)
  return number
end
