-- What the scripts of groups share. KEYS: 1 the group's hash, as the original has it, 2 its
-- companion: `created` holds the operation that created it, `m:MEMBER` a record of each membership
-- that is one of ours: SESSION:OPERATION:INCARNATION:JOINED:UPDATED. 3 the caller's session.
-- ARGV: the group's channel, the prefix of the heartbeats' keys, and from 3 the script's own.
local GROUP, COMPANION, SESSION = KEYS[1], KEYS[2], KEYS[3]
local CHANNEL, HEARTBEATS = ARGV[1], ARGV[2]

local function session_is_over()
  return redis.call('EXISTS', SESSION) == 0
end

local function changed()
  redis.call('PUBLISH', CHANNEL, 'members')
end

-- The session and the operation that the member joined in, if it is one of ours.
local function joined_by(member)
  local record = redis.call('HGET', COMPANION, 'm:' .. member)
  return string.match(record or '', '^(%x+):(%x+):')
end

-- Whether the member joined in the caller's session, and not in one of a namesake.
local function is_callers(member)
  local session = joined_by(member)
  return session and string.sub(SESSION, -#session) == session
    and redis.call('HEXISTS', GROUP, member) == 1
end

local function drop(member)
  redis.call('HDEL', COMPANION, 'm:' .. member)
  return redis.call('HDEL', GROUP, member)
end

-- Milliseconds to live, or nil for a member that is dead: it is reaped in the same step, so that
-- none is that sends a heartbeat in between.
local function ttl_of(member)
  local ttl = redis.call('PTTL', HEARTBEATS .. member)
  if ttl ~= -2 then
    return ttl
  end
  if drop(member) == 1 then
    changed()
  end
end
