-- Numbers that strictly rise, also after a restart that forgot them: the server's clock in
-- microseconds, or one more than the last. The counter's key is common to a namespace.
local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

local function next_number(counter)
  local number = now_us()
  local last = tonumber(redis.call('GET', counter) or '0')
  if last >= number then
    number = last + 1
  end
  number = string.format('%.0f', number)
  redis.call('SET', counter, number)
  return number
end
