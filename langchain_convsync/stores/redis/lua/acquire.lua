-- Leases a queue. KEYS: the shard of `conversation`, or without one every shard to look at.
local queue, token, lease, conversation, account_concurrency = unpack(ARGV, 3)
lease, account_concurrency = tonumber(lease), tonumber(account_concurrency)
if conversation ~= '' then return acquire(conversation, queue, token, lease, account_concurrency) end

-- Milliseconds after which what could not be mended is tried again.
local PATIENCE = 60000

local holding = read('GET', token_key(queue, token))
if type(holding) == 'string' then
  prefix = prefix_of(holding)
  local has = read('HMGET', conversation_record(holding), queue .. '.token', queue .. '.until')
  if has[1] == token and has[2] then return acquired(holding, queue) end
end

-- The conversation of an account that is next; a cap steps over its first contacts.
local function first_of(account)
  if queue ~= 'replies' or held_by(account) ~= FIRST_CONTACTS then
    return read('ZRANGE', ready_key(queue, account), 0, 0)[1]
  end
  return read('ZRANGE', known_key(account), '-inf', string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, 1)[1]
end

-- The account of the shard that is next, its place in the ring, and its conversation that is next.
local function next_account()
  local place = 0
  repeat
    local at = call('ZRANGE', accounts_key(queue), place, place, 'WITHSCORES')
    if not at[1] or math.floor(at[2] / 1000) > now then return nil end
    if not is_full(at[1], queue, account_concurrency) then
      local conversation = first_of(at[1])
      if conversation or held_by(at[1]) ~= FIRST_CONTACTS then return at[1], tonumber(at[2]), conversation end
    end
    place = place + 1
  until false
end

-- The account that is next, its shard, and its conversation that is next. A damaged shard is passed over.
local failure
local function next_of_all()
  local best, account, longest, conversation
  for _, shard in ipairs(KEYS) do
    prefix = shard
    local ok, found, place, first = pcall(next_account)
    if not ok then
      failure = found
    elseif found and (not longest or place < longest) then
      best, account, longest, conversation = shard, found, place, first
    end
  end
  return account, best, conversation
end

-- What is damaged is mended, or else tried again after a while: it stands in no other's way.
local function attempt(account, conversation)
  local ok, found = pcall(acquire, conversation, queue, token, lease, account_concurrency)
  if ok and found then return found end
  if ok then -- it was not due after all
    pcall(schedule, conversation, queue)
    return false
  end
  pcall(mend, conversation)
  ok, found = pcall(acquire, conversation, queue, token, lease, account_concurrency)
  if ok and found then return found end
  if not ok then
    failure = found
    call('ZADD', ready_key(queue, account), now + PATIENCE, conversation)
    if queue == 'replies' then call('ZREM', known_key(account), conversation) end
    local head = call('ZRANGE', ready_key(queue, account), 0, 0, 'WITHSCORES')
    call('ZADD', accounts_key(queue), head[2] * 1000, account)
  end
  return false
end

for _ = 1, 100 do
  local account, shard, conversation = next_of_all()
  if not account then break end
  prefix = shard
  if conversation then
    local found = attempt(account, conversation)
    if found then return found end
  else -- the index of its work is gone
    call('ZREM', accounts_key(queue), account)
  end
end
if failure then error(failure) end
return false
