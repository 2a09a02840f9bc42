-- The beat of a member holds the ids of its sessions: namesakes share it. KEYS: 1 the session, 2 the
-- beat. ARGV: 1 the session's id.
local PREFIX = string.sub(KEYS[1], 1, -#ARGV[1] - 1)

-- The other sessions of the member that live.
local function namesakes()
  local found = {}
  for id in string.gmatch(redis.call('GET', KEYS[2]) or '', '%x+') do
    if #id == #ARGV[1] and id ~= ARGV[1] and redis.call('EXISTS', PREFIX .. id) == 1 then
      found[#found + 1] = id
    end
  end
  return found
end
