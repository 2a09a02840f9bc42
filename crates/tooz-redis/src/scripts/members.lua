-- `only` is the one member asked for, or ''; `known` the digest of what the caller knows, or '' if it
-- knows nothing, or '-' if it wants none.
-- Returns -1 without the group, or {digest, milliseconds until the first heartbeat ends or -1, then
-- for each member its id, its capabilities and its record}: nothing of the latter if the digest is
-- as given.
local only, known = ARGV[3], ARGV[4]
if redis.call('EXISTS', GROUP) == 0 then
  return -1
end
local found = { '', -1 }
local function add(member, capabilities, record)
  local ttl = ttl_of(member)
  if not ttl then
    return
  end
  if ttl >= 0 and (found[2] < 0 or ttl < found[2]) then
    found[2] = ttl
  end
  local n = #found
  found[n + 1], found[n + 2], found[n + 3] = member, capabilities, record or ''
end
if only ~= '' then
  local capabilities = redis.call('HGET', GROUP, only)
  if capabilities then
    add(only, capabilities, redis.call('HGET', COMPANION, 'm:' .. only))
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
if known == '-' then
  return found
end
local digest = redis.sha1hex(table.concat(found, '\0', 3))
if digest == known then
  return { digest, found[2] }
end
found[1] = digest
return found
