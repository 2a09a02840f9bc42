-- What the scripts of locks and terms share.
--
-- KEYS: those below, and from 6 the spellings of the lock's own key.
-- ARGV: the prefix of the sessions' channels, the channel of those who watch the leader or '', and
-- from 3 the script's own.
--
-- The lock's keys hold OPERATION:NUMBER:SESSION:MEMBER, or shared:EPOCH while readers have it;
-- anything else is a peer's. Queue entries are OPERATION:MODE:SESSION:MEMBER in the order of
-- arrival, readers OPERATION:SESSION:MEMBER by the time at which they expire.
local COUNTER, QUEUE, READERS, SESSION, HEARTBEAT = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local SESSION_CHANNELS, LEADER_CHANNEL = ARGV[1], ARGV[2]

-- How long a lock is kept for the waiter that it was given to, until that waiter answers.
local ANSWER = 700

local function spellings()
  local i = 5
  return function()
    i = i + 1
    return KEYS[i]
  end
end

-- Who has it, and for how long; nil if it is free. '?' if the spellings disagree: a peer knows
-- only some of them.
local function holder()
  local found, ttl, free
  for key in spellings() do
    local value = redis.call('GET', key)
    if not value then
      free = true
    elseif not found then
      found, ttl = value, redis.call('PTTL', key)
    elseif value ~= found then
      return '?', redis.call('PTTL', key)
    end
  end
  if found and free then
    return '?', ttl
  end
  return found, ttl
end

local function queue_head()
  return redis.call('ZRANGE', QUEUE, 0, 0)[1]
end

-- Behind all who wait, in the order of time. Scores are exact up to 2^53 only, and the numbers may
-- be above that.
local function next_score()
  local last = redis.call('ZREVRANGE', QUEUE, 0, 0, 'WITHSCORES')[2] or 0
  return string.format('%.0f', math.max(now_us(), last + 1))
end

local function epoch_of(value)
  return value and string.match(value, '^shared:(%d+)$')
end

local function announce()
  if LEADER_CHANNEL ~= '' then
    redis.call('PUBLISH', LEADER_CHANNEL, 'leader')
  end
end

local function put(value, ttl)
  for key in spellings() do
    redis.call('SET', key, value, 'PX', ttl)
  end
end

local function remove()
  for key in spellings() do
    redis.call('DEL', key)
  end
end

-- The marker lives as long as the last of its readers.
local function keep_marker(epoch)
  local last = redis.call('ZREVRANGE', READERS, 0, 0, 'WITHSCORES')[2]
  local ttl = last and tonumber(last) - now_ms() or 0
  if ttl <= 0 then
    redis.call('DEL', READERS)
    return remove()
  end
  put('shared:' .. epoch, ttl)
  redis.call('PEXPIRE', READERS, ttl)
end

local function reap_readers()
  redis.call('ZREMRANGEBYSCORE', READERS, '-inf', now_ms())
end

-- Adds or renews a reader beside those that `value` stands for; the epoch.
local function read(value, reader, ttl)
  local epoch = epoch_of(value)
  if not epoch then
    epoch = next_number(COUNTER)
    redis.call('DEL', READERS)
  end
  reap_readers()
  redis.call('ZADD', READERS, now_ms() + tonumber(ttl), reader)
  keep_marker(epoch)
  return epoch
end

-- Tells a waiter; whether its session listens. A process that died does not.
local function tell(session, what, operation)
  return redis.call('PUBLISH', SESSION_CHANNELS .. session, what .. ':' .. operation) > 0
end

-- Asks the next waiter, of another session if there is one near, to look again when the answer of
-- `session` is overdue.
local function stand_by(session)
  local entries = redis.call('ZRANGE', QUEUE, 0, 7)
  local other, first
  for _, entry in ipairs(entries) do
    local operation, its_session = string.match(entry, '^(%x+):%a:(%x+):')
    if operation then
      first = first or { its_session, operation }
      if its_session ~= session then
        other = { its_session, operation }
        break
      end
    end
  end
  local chosen = other or first
  if chosen then
    tell(chosen[1], 'check', chosen[2])
  end
end

-- Gives the lock to the first in the queue that lives, or to the first readers. Stops at `caller`,
-- whose turn it is then.
local function grant(caller)
  for _ = 1, 64 do
    local head = queue_head()
    if not head or head == caller then
      return
    end
    local operation, mode, session, member = string.match(head, '^(%x+):(%a):(%x+):(.*)$')
    local value = holder()
    if value and not (mode == 's' and epoch_of(value)) then
      return
    end
    redis.call('ZREM', QUEUE, head)
    if operation and tell(session, 'granted', operation) then
      if mode == 's' then
        read(value, operation .. ':' .. session .. ':' .. member, ANSWER)
      else
        local number = next_number(COUNTER)
        put(operation .. ':' .. number .. ':' .. session .. ':' .. member, ANSWER)
        announce()
        return stand_by(session)
      end
    end
  end
end
