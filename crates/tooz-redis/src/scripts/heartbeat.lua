-- The signs of life of the session and of its member, and a look at the memberships.
-- Returns {0} if the session is over, else 1, the server's clock in milliseconds, and for each group
-- whether the member is in it, and joined in this session.
local ttl, is_first = ARGV[3], ARGV[4] == '1'
if is_first then
  redis.call('SET', SESSION, MEMBER, 'PX', ttl)
elseif redis.call('PEXPIRE', SESSION, ttl) == 0 then
  return { 0 }
end
local sessions = namesakes()
sessions[#sessions + 1] = ID
sessions = table.concat(sessions, ' ')
-- A server without memory still prolongs what it has.
if redis.call('GET', HEARTBEAT) == sessions then
  redis.call('PEXPIRE', HEARTBEAT, ttl)
else
  redis.call('SET', HEARTBEAT, sessions, 'PX', ttl)
end
local time = redis.call('TIME')
local result = { 1, math.floor(time[1] * 1000 + time[2] / 1000) }
for i = 3, #KEYS, 2 do
  local record = redis.call('HGET', KEYS[i + 1], 'm:' .. MEMBER)
  local own = string.match(record or '', '^%x+') == ID
  result[#result + 1] = own and redis.call('HEXISTS', KEYS[i], MEMBER) or 0
end
return result
