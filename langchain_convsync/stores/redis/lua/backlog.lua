-- What is left to do in the shards of KEYS: queued, writes, replies, dead letters, held inboxes.
local sums = { 0, 0, 0, 0, 0 }
for _, shard in ipairs(KEYS) do
  local counts = read('HMGET', shard .. 'count', 'queued', 'writes', 'replies', 'dead_operations')
  for i = 1, 4 do sums[i] = sums[i] + (number(counts[i]) or 0) end
  sums[4] = sums[4] + (number(read('ZCARD', shard .. 'dead')) or 0)
  local held = number(read('ZCARD', shard .. 'held')) or 0
  sums[1], sums[5] = sums[1] - held, sums[5] + held
end
return sums
