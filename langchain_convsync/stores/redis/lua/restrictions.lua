-- The accounts of the shards of KEYS that send no replies.
local found = {}
for _, shard in ipairs(KEYS) do
  prefix = shard
  for _, account in ipairs(read('HKEYS', prefix .. 'restricted')) do
    found[#found + 1] = restriction(account)
  end
end
return found
