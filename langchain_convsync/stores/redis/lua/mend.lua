-- Mends what the keys in the arguments name, events and conversations, after an operation failed on it.
for i = 3, #ARGV do
  drop_foreign(event_record(ARGV[i]), 'HGET', 'state')
  drop_foreign(alias_key(ARGV[i]), 'GET')
  mend(ARGV[i])
  local target = follow(ARGV[i])
  if target ~= ARGV[i] then mend(target) end
end
