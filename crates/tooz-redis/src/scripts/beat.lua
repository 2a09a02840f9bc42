-- The signs of life of the session and of its member, and a look at the memberships.
-- KEYS: from 3 for each group its hash and its companion. ARGV: 2 member, 3 milliseconds, 4 whether it is the session's first.
-- Returns {0} if the session is over, else 1, the server's clock in milliseconds, and for each group whether the
-- member is in it, and joined in this session.
if ARGV[4] == '1' then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
elseif redis.call('PEXPIRE', KEYS[1], ARGV[3]) == 0 then
  return { 0 }
end
local sessions = namesakes()
sessions[#sessions + 1] = ARGV[1]
sessions = table.concat(sessions, ' ')
-- A server without memory still prolongs what it has.
if redis.call('GET', KEYS[2]) == sessions then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
else
  redis.call('SET', KEYS[2], sessions, 'PX', ARGV[3])
end
local time = redis.call('TIME')
local result = { 1, math.floor(time[1] * 1000 + time[2] / 1000) }
for i = 3, #KEYS, 2 do
  local record = redis.call('HGET', KEYS[i + 1], 'm:' .. ARGV[2])
  local own = string.match(record or '', '^%x+') == ARGV[1]
  result[#result + 1] = own and redis.call('HEXISTS', KEYS[i], ARGV[2]) or 0
end
return result
