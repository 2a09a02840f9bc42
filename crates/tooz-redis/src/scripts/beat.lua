-- The signs of life of the session and of its member, and a look at the memberships.
-- KEYS: from 3 for each group its hash and its companion. ARGV: 2 member, 3 milliseconds, 4 whether it is the session's first.
-- Returns whether the session was still there, and for each group whether the
-- member is in it, and joined in this session.
if ARGV[4] ~= '1' and redis.call('EXISTS', KEYS[1]) == 0 then
  return { 0 }
end
local sessions = namesakes()
sessions[#sessions + 1] = ARGV[1]
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('SET', KEYS[2], table.concat(sessions, ' '), 'PX', ARGV[3])
local result = { 1 }
for i = 3, #KEYS, 2 do
  local record = redis.call('HGET', KEYS[i + 1], 'm:' .. ARGV[2])
  local own = string.match(record or '', '^%x+') == ARGV[1]
  result[#result + 1] = own and redis.call('HEXISTS', KEYS[i], ARGV[2]) or 0
end
return result
