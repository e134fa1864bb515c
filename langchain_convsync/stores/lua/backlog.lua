-- What is left to do in the shards of KEYS: queued, writes, says, parked, dead.
local sums = { 0, 0, 0, 0, 0 }
for _, shard in ipairs(KEYS) do
  local counts = call('HMGET', shard .. 'count', 'queued', 'writes', 'says', 'parked')
  for i = 1, 4 do sums[i] = sums[i] + (counts[i] or 0) end
  sums[5] = sums[5] + call('ZCARD', shard .. 'dead')
end
return sums
