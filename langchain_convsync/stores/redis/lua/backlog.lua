-- What is left to do in the shards of KEYS: queued, writes, replies, dead letters.
local sums = { 0, 0, 0, 0 }
for _, shard in ipairs(KEYS) do
  local counts = read('HMGET', shard .. 'count', 'queued', 'writes', 'replies', 'dead_operations')
  for i = 1, 4 do sums[i] = sums[i] + (number(counts[i]) or 0) end
  sums[4] = sums[4] + (number(read('ZCARD', shard .. 'dead')) or 0)
end
return sums
