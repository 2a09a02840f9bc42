-- What the scripts of groups share. KEYS: 1 the group's hash, as the original has it, 2 its
-- companion: `created` holds the operation that created it, `m:MEMBER` a record of each membership
-- that is one of ours: SESSION:OPERATION:INCARNATION:JOINED:UPDATED. 3 the caller's session.
-- ARGV: 1 the group's channel, 2 the prefix of the beats.
local GROUP, COMPANION = KEYS[1], KEYS[2]

local function session_is_over()
  return redis.call('EXISTS', KEYS[3]) == 0
end

local function changed()
  redis.call('PUBLISH', ARGV[1], 'members')
end

-- The session and the operation that the member joined in, if it is one of ours.
local function joined_by(member)
  local record = redis.call('HGET', COMPANION, 'm:' .. member)
  return string.match(record or '', '^(%x+):(%x+):')
end

-- Whether the member joined in the caller's session, and not in one of a namesake.
local function is_callers(member)
  local session = joined_by(member)
  return session and string.sub(KEYS[3], -#session) == session
    and redis.call('HEXISTS', GROUP, member) == 1
end

local function drop(member)
  redis.call('HDEL', COMPANION, 'm:' .. member)
  return redis.call('HDEL', GROUP, member)
end

-- Milliseconds to live, or nil for a member that is dead: it is removed in the same step, so that
-- none is that beats in between.
local function life_of(member)
  local life = redis.call('PTTL', ARGV[2] .. member)
  if life ~= -2 then
    return life
  end
  if drop(member) == 1 then
    changed()
  end
end
