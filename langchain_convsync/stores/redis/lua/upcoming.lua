-- What can be acquired now in the shards of KEYS, and when more can be. The arguments are conversations
-- whose inbox is waited for. Answers a count for each queue, milliseconds, and conversations.
local MOST = 100
local counts, next_at, free = {}, nil, {}

local function comes(at, apart)
  at = number(at)
  if at then next_at = math.min(next_at or at + apart, at + apart) end
end

for i, queue in ipairs(QUEUES) do
  counts[i] = 0
  local apart = queue == 'inbox' and 0 or APART
  local upto = now - apart
  for _, shard in ipairs(KEYS) do
    prefix = shard
    local bound = string.format('%.0f', upto * 1000 + 999)
    for _, account in ipairs(read('ZRANGE', accounts_key(queue), '-inf', bound, 'BYSCORE', 'LIMIT', 0, MOST)) do
      local ready = ready_key(queue, account)
      local ready_now = read('ZCOUNT', ready, '-inf', upto)
      counts[i] = math.min(MOST, counts[i] + (type(ready_now) == 'number' and ready_now or 0))
      comes(read('ZRANGE', ready, '(' .. upto, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2], apart)
    end
    local later = number(read('ZRANGE', accounts_key(queue), '(' .. bound, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2])
    comes(later and later / 1000, apart)
  end
end

for i = 3, #ARGV do
  prefix = prefix_of(ARGV[i])
  local ok, at = pcall(due, ARGV[i], 'inbox')
  if ok and (at or 0) <= now then free[#free + 1] = ARGV[i] end
end
return { counts, next_at and math.ceil(next_at - now) or -1, free }
