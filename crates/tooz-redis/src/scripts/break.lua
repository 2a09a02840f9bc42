-- Breaks the lock, whoever has it, and tells those that listen. Returns whether anybody had it.
local broken = 0
local told = {}
for key in spellings() do
  local value = redis.call('GET', key)
  if value then
    broken = 1
    redis.call('DEL', key)
    local operation, session = string.match(value, '^(%x+):%d+:(%x+):')
    if operation and not told[operation] then
      told[operation] = true
      tell(session, 'broken', operation)
    end
  end
end
for _, reader in ipairs(redis.call('ZRANGE', READERS, 0, -1)) do
  local operation, session = string.match(reader, '^(%x+):(%x+):')
  if operation then
    tell(session, 'broken', operation)
  end
end
redis.call('DEL', READERS)
announce()
grant()
return broken
