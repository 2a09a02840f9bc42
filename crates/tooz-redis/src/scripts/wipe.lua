-- Deletes all keys of a namespace. ARGV: 1 the namespace.
for _, key in ipairs(redis.call('KEYS', '*' .. ARGV[1] .. '*')) do
  redis.call('DEL', key)
end
return 1
