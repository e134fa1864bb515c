-- Seconds for which the oldest reply of an account waits; one that is at the head of no queue is gone.
local function waits_for(account)
  local waiting = read('ZRANGE', unsent_key(account), 0, 99, 'WITHSCORES')
  for i = 1, #waiting, 2 do
    local conversation, operation = waiting[i]:match('^(%S+) (.*)$')
    if conversation and read('LINDEX', queue_key(conversation, 'replies'), 0) == operation then
      return now - waiting[i + 1]
    end
  end
  return false
end

-- What each account of the shards of KEYS has to do in each queue: when it is due, and how often.
local found = {}
for _, shard in ipairs(KEYS) do
  prefix = shard
  for _, queue in ipairs(QUEUES) do
    for _, account in ipairs(read('ZRANGE', accounts_key(queue), 0, -1)) do
      local ready = ready_key(queue, account)
      local head = read('ZRANGE', ready, 0, 0, 'WITHSCORES')
      if head[2] then
        local ends = number(read('HGET', conversation_record(head[1]), queue .. '.until')) or 0
        found[#found + 1] = { head[2] - now, account, queue, call('ZCARD', ready), ends > now and 1 or 0,
          queue == 'replies' and waits_for(account) }
      end
    end
  end
end
return found
