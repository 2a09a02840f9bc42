-- ARGV: 3 the one member asked for or '', 4 the digest of what the caller knows, or '' if it knows
-- nothing, or '-' if it wants none.
-- Returns -1 without the group, or {digest, milliseconds until the first beat ends or -1, then for
-- each member its id, its capabilities and its record}: nothing of the latter if the digest is as
-- given.
if redis.call('EXISTS', GROUP) == 0 then
  return -1
end
local found = { '', -1 }
local function add(member, capabilities, record)
  local life = life_of(member)
  if not life then
    return
  end
  if life >= 0 and (found[2] < 0 or life < found[2]) then
    found[2] = life
  end
  local n = #found
  found[n + 1], found[n + 2], found[n + 3] = member, capabilities, record or ''
end
if ARGV[3] ~= '' then
  local capabilities = redis.call('HGET', GROUP, ARGV[3])
  if capabilities then
    add(ARGV[3], capabilities, redis.call('HGET', COMPANION, 'm:' .. ARGV[3]))
  end
else
  local records, all = {}, redis.call('HGETALL', COMPANION)
  for i = 1, #all, 2 do
    records[all[i]] = all[i + 1]
  end
  all = redis.call('HGETALL', GROUP)
  for i = 1, #all, 2 do
    if all[i] ~= '__created__' then
      add(all[i], all[i + 1], records['m:' .. all[i]])
    end
  end
end
if ARGV[4] == '-' then
  return found
end
local digest = redis.sha1hex(table.concat(found, '\0', 3))
if digest == ARGV[4] then
  return { digest, found[2] }
end
found[1] = digest
return found
