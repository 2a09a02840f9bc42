-- The heartbeat of a member holds the ids of its sessions: namesakes share it. KEYS: the session, the
-- heartbeat, and from 3 for each group its hash and its companion. ARGV: the session's id, the member,
-- and from 3 the script's own.
local SESSION, HEARTBEAT = KEYS[1], KEYS[2]
local ID, MEMBER = ARGV[1], ARGV[2]
local PREFIX = string.sub(SESSION, 1, -#ID - 1)

-- The other sessions of the member that live.
local function namesakes()
  local found = {}
  for id in string.gmatch(redis.call('GET', HEARTBEAT) or '', '%x+') do
    if #id == #ID and id ~= ID and redis.call('EXISTS', PREFIX .. id) == 1 then
      found[#found + 1] = id
    end
  end
  return found
end
