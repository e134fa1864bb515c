-- What each account of the shards of KEYS has to do in each lane: when it is due, and how often.
local found = {}
for _, shard in ipairs(KEYS) do
  prefix = shard
  for lane in pairs(QUEUES) do
    for _, account in ipairs(call('ZRANGE', accounts_key(lane), 0, -1)) do
      local ready = ready_key(lane, account)
      local head = call('ZRANGE', ready, 0, 0, 'WITHSCORES')
      found[#found + 1] = { head[2] - now, account, lane, call('ZCARD', ready) }
    end
  end
end
return found
