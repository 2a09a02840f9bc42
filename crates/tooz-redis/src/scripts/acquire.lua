-- One attempt, repeatable at will under its operation id.
--
-- ARGV: 3 operation, 4 mode, 5 session, 6 member, 7 milliseconds, 8 place in the queue or '',
-- 9 whether to wait, 10 milliseconds of the session.
-- Returns {2} if the session is over, {1, number, epoch} if it is ours, {0} if it is not and there
-- is no waiting, else {0, waiters before, life of what is in the way, whether that is one of ours,
-- place}.
local operation, mode, session, member, life = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local me = operation .. ':' .. mode .. ':' .. session .. ':' .. member
local reader = operation .. ':' .. session .. ':' .. member

if redis.call('EXISTS', KEYS[4]) == 0 then
  redis.call('ZREM', QUEUE, me)
  return { 2 }
end

-- A sign of life as well: the lock must not outlive the session that it depends on.
local function granted(number, epoch)
  redis.call('PEXPIRE', KEYS[4], ARGV[10])
  redis.call('PEXPIRE', KEYS[5], ARGV[10])
  return { 1, number, epoch }
end

local value, left = holder()
-- Ours already: given from the queue, or by a request whose answer was lost.
if mode == 's' then
  local expires = redis.call('ZSCORE', READERS, reader)
  if epoch_of(value) and expires and tonumber(expires) > now_ms() then
    -- First: a server without memory refuses a number, but not behind a first write.
    redis.call('ZREM', QUEUE, me)
    local number = next_number(KEYS[1])
    local epoch = read(value, reader, life)
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
    put(mine, life)
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
  local number, epoch = next_number(KEYS[1]), ''
  if head then
    redis.call('ZREM', QUEUE, me)
  end
  if mode == 's' then
    epoch = read(value, reader, life)
    grant()
  else
    put(operation .. ':' .. number .. ':' .. session .. ':' .. member, life)
    announce()
  end
  return granted(number, epoch)
end

if ARGV[9] ~= '1' then
  if redis.call('ZREM', QUEUE, me) == 1 then
    grant()
  end
  return { 0 }
end
local place = ARGV[8]
if place == '' then
  place = next_place()
end
-- Who waits already needs no memory for it.
if not redis.call('ZSCORE', QUEUE, me) then
  redis.call('ZADD', QUEUE, place, me)
end
-- Every waiter looks again within the life of what it waits for and a second: a queue that nobody
-- touches for much longer is an abandoned one.
redis.call('PEXPIRE', QUEUE, math.max(left or 0, tonumber(life)) * 2 + 60000)
local ours = value and (epoch_of(value) or string.match(value, '^%x+:%d+:%x+:'))
return { 0, redis.call('ZRANK', QUEUE, me), left or 0, ours and 1 or 0, place }
