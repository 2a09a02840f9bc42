-- One attempt, repeatable at will under its operation id. The times to live are in milliseconds;
-- `score` is that of its queue entry, or ''.
--
-- Returns {2} if the session is over, {1, number, epoch} if it is ours, {0} if it is not and there
-- is no waiting, else {0, waiters before, time to live of what is in the way, whether that is one of
-- ours, score}.
local operation, mode, session, member = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local ttl, score, waits, session_ttl = ARGV[7], ARGV[8], ARGV[9] == '1', ARGV[10]
local me = operation .. ':' .. mode .. ':' .. session .. ':' .. member
local reader = operation .. ':' .. session .. ':' .. member

if redis.call('EXISTS', SESSION) == 0 then
  redis.call('ZREM', QUEUE, me)
  return { 2 }
end

-- A sign of life as well: the lock must not outlive the session that it depends on.
local function granted(number, epoch)
  redis.call('PEXPIRE', SESSION, session_ttl)
  redis.call('PEXPIRE', HEARTBEAT, session_ttl)
  return { 1, number, epoch }
end

local value, left = holder()
-- Ours already: given from the queue, or by a request whose answer was lost.
if mode == 's' then
  local expires = redis.call('ZSCORE', READERS, reader)
  if epoch_of(value) and expires and tonumber(expires) > now_ms() then
    -- First: a server without memory refuses a number, but not behind a first write.
    redis.call('ZREM', QUEUE, me)
    local number = next_number(COUNTER)
    local epoch = read(value, reader, ttl)
    grant()
    return granted(number, epoch)
  end
elseif value then
  local mine, others
  for key in spellings() do
    local one = redis.call('GET', key)
    if one and string.sub(one, 1, #operation + 1) == operation .. ':' then
      mine = one
    elseif one then
      others = true
    end
  end
  if mine and not others then
    redis.call('ZREM', QUEUE, me)
    put(mine, ttl)
    return granted(string.match(mine, '^%x+:(%d+):'), '')
  elseif mine then
    for key in spellings() do
      if redis.call('GET', key) == mine then
        redis.call('DEL', key)
      end
    end
    value, left = holder()
  end
end

local head = queue_head()
if head and head ~= me then
  grant(me)
  value, left = holder()
  head = queue_head()
end
local open = not value or (mode == 's' and epoch_of(value))
if open and (not head or head == me) then
  -- First, because a server without memory refuses it, and not what follows a first write.
  local number, epoch = next_number(COUNTER), ''
  if head then
    redis.call('ZREM', QUEUE, me)
  end
  if mode == 's' then
    epoch = read(value, reader, ttl)
    grant()
  else
    put(operation .. ':' .. number .. ':' .. session .. ':' .. member, ttl)
    announce()
  end
  return granted(number, epoch)
end

if not waits then
  if redis.call('ZREM', QUEUE, me) == 1 then
    grant()
  end
  return { 0 }
end
if score == '' then
  score = next_score()
end
-- An entry that is there already needs no memory.
if not redis.call('ZSCORE', QUEUE, me) then
  redis.call('ZADD', QUEUE, score, me)
end
-- Every waiter looks again within the time to live of what it waits for and a second: a queue that
-- nobody touches for much longer is an abandoned one.
redis.call('PEXPIRE', QUEUE, math.max(left or 0, tonumber(ttl)) * 2 + 60000)
local ours = value and (epoch_of(value) or string.match(value, '^%x+:%d+:%x+:'))
return { 0, redis.call('ZRANK', QUEUE, me), left or 0, ours and 1 or 0, score }
