-- Leases a queue. KEYS: the shard of `conversation`, or without one every shard to look at.
local queue, token, lease, conversation, account_concurrency = unpack(ARGV, 3)
lease, account_concurrency = tonumber(lease), tonumber(account_concurrency)
if conversation ~= '' then return acquire(conversation, queue, token, lease, account_concurrency) end

local token_keys = {}
for i, shard in ipairs(KEYS) do
  prefix = shard
  token_keys[i] = token_key(queue, token)
end
for i, holding in ipairs(call('MGET', unpack(token_keys))) do
  prefix = KEYS[i]
  local has = holding
    and call('HMGET', conversation_record(holding), queue .. '.token', queue .. '.until')
  if has and has[1] == token and has[2] then return acquired(holding, queue) end
end

-- The account of the shard that is next, with its place in the ring.
local function next_account()
  local place = 0
  repeat
    local at = call('ZRANGE', accounts_key(queue), place, place, 'WITHSCORES')
    if not at[1] or math.floor(at[2] / 1000) > now then return nil end
    if not is_full(at[1], queue, account_concurrency) then return at[1], tonumber(at[2]) end
    place = place + 1
  until false
end

local best, account, longest
for _, shard in ipairs(KEYS) do
  prefix = shard
  local found, place = next_account()
  if found and (not longest or place < longest) then
    best, account, longest = shard, found, place
  end
end
if not best then return false end
prefix = best
return acquire(call('ZRANGE', ready_key(queue, account), 0, 0)[1], queue, token, lease, account_concurrency)
