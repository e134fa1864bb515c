-- What every operation shares: the keys, the clock, and the three queues of a conversation.
--
-- KEYS are the prefixes of shards, "cs:{s07}:". Every key that a script touches begins with one of
-- them, so it lies in the Redis Cluster slot that the prefix names.
-- ARGV[1] is a test's clock in milliseconds, empty for the server's own. ARGV[2] is the retention in
-- milliseconds. An operation's own arguments follow.
--
-- Times and counts stay below 2^53, where Lua's numbers are exact integers. User text is passed on as
-- it came. An optional text travels as '' or '=' .. text. Scripts check before their first write,
-- because nothing is rolled back.

local call = redis.call
local prefix = KEYS[1]
local now = tonumber(ARGV[1])
local retention = tonumber(ARGV[2])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Keys -------------------------------------------------------------------------------------------

local QUEUES = { 'inbox', 'outbox', 'replies' }
local COUNTERS = { inbox = 'queued', outbox = 'writes', replies = 'replies' }

-- The prefix of the shard that a key lies in.
local function prefix_of(key) return (prefix:gsub('%d%d', key:sub(1, 2), 1)) end

local function event_record(event) return prefix .. 'ev:' .. event end
local function alias_key(conversation) return prefix .. 'alias:' .. conversation end
local function pause_key(conversation) return prefix .. 'pause:' .. conversation end
local function conversation_record(conversation) return prefix .. 'c:' .. conversation end
local function part_key(conversation, part) return prefix .. 'c:' .. conversation .. ':' .. part end
local function queue_key(conversation, queue) return part_key(conversation, queue) end
local function token_key(queue, token) return prefix .. 'token:' .. queue .. ':' .. token end
local function ready_key(queue, account) return prefix .. 'ready:' .. queue .. ':' .. account end
local function running_key(account) return prefix .. 'running:' .. account end
local function accounts_key(queue) return prefix .. 'accounts:' .. queue end
local function places_key(queue) return prefix .. 'places:' .. queue end
local function account_of(conversation) return conversation:sub(1, 15) end
local function is_claim(conversation) return conversation:sub(4, 15) == '000000000000' end

local function count(name, change) call('HINCRBY', prefix .. 'count', name, change) end

local function optional(text)
  if text ~= '' then return text:sub(2) end
end

-- Due work ---------------------------------------------------------------------------------------

-- When a queue can be acquired: after its lease, its delay and the debounce window. Nil without work.
-- Besides, the end of its lease.
local function due(conversation, queue)
  local list = queue_key(conversation, queue)
  if call('EXISTS', list) == 0 then return nil end
  local has = call('HMGET', conversation_record(conversation),
    queue .. '.until', queue .. '.not_before', 'debounce', 'max_debounce')
  local at = math.max(tonumber(has[1] or 0), tonumber(has[2] or 0))
  if queue ~= 'inbox' then return at, has[1] end
  local first = call('HGET', event_record(call('LINDEX', list, 0)), 'at')
  local last = call('HGET', event_record(call('LINDEX', list, -1)), 'at')
  return math.max(at, math.min(first + has[4], last + has[3])), has[1]
end

-- Brings the indexes of due work and of running turns up to date. An account's place in the ring is
-- the microsecond of its last acquire; it comes up at that or at its oldest due work, whichever is later.
local function schedule(conversation, queue)
  if is_claim(conversation) then return end
  local account = account_of(conversation)
  local at, ends = due(conversation, queue)
  if queue == 'inbox' then
    local running = running_key(account)
    if ends then call('ZADD', running, ends, conversation) else call('ZREM', running, conversation) end
  end
  local ready = ready_key(queue, account)
  if at then call('ZADD', ready, at, conversation) else call('ZREM', ready, conversation) end
  local head = call('ZRANGE', ready, 0, 0, 'WITHSCORES')
  if head[2] then
    local place = tonumber(call('HGET', places_key(queue), account) or 0)
    call('ZADD', accounts_key(queue), math.max(place, head[2] * 1000), account)
  else
    call('ZREM', accounts_key(queue), account)
    call('HDEL', places_key(queue), account)
  end
end

-- To be called when work was added to or acquired from a conversation: only an idle one expires.
local function keep_while_busy(conversation)
  local busy = call('EXISTS', queue_key(conversation, 'inbox'), queue_key(conversation, 'outbox'), queue_key(conversation, 'replies'))
  if busy > 0 then
    call('PERSIST', conversation_record(conversation))
  else
    call('PEXPIRE', conversation_record(conversation), retention)
  end
end

-- Names ------------------------------------------------------------------------------------------

-- The conversation that a name leads to.
local function follow(name)
  local target = call('GET', alias_key(name))
  while target do
    call('PEXPIRE', alias_key(name), retention)
    name, target = target, call('GET', alias_key(target))
  end
  return name
end

-- Leases -----------------------------------------------------------------------------------------

-- The end of the lease, while no other worker acquired the queue and it was not released.
local function held_until(conversation, queue, token, epoch)
  local has = call('HMGET', conversation_record(conversation),
    queue .. '.token', queue .. '.epoch', queue .. '.until')
  if has[1] == token and has[2] == epoch and has[3] then return tonumber(has[3]) end
end

-- Whether so many turns of the account run already; 0 stands for any number.
local function is_full(account, queue, account_concurrency)
  if queue ~= 'inbox' or account_concurrency == 0 then return false end
  return call('ZCOUNT', running_key(account), '(' .. now, '+inf') >= account_concurrency
end

local function is_paused(conversation)
  return now < tonumber(call('GET', pause_key(conversation)) or 0)
end

-- Puts the events that wait under a name behind those of a conversation.
local function bring_along(name, target)
  local own, there = conversation_record(name), conversation_record(target)
  local windows = call('HMGET', own, 'debounce', 'max_debounce')
  for _, event in ipairs(call('LRANGE', queue_key(name, 'inbox'), 0, -1)) do
    call('HSET', event_record(event), 'conversation', target)
    call('RPUSH', queue_key(target, 'inbox'), event)
    call('HSETNX', there, 'debounce', windows[1])
    call('HSETNX', there, 'max_debounce', windows[2])
  end
  call('DEL', queue_key(name, 'inbox'))
  call('HDEL', own, 'inbox.until')
  for _, conversation in ipairs({ target, name }) do -- in this order, so that their account keeps its place
    schedule(conversation, 'inbox')
    keep_while_busy(conversation)
  end
end

-- Lets a name lead to a conversation, which is not an alias itself, hence never in a circle; its events,
-- a human's takeover and its tenant go along. Whether it leads there now: not while it has operations,
-- or a turn that is not the caller's, whose lease may be given, or where it is another tenant's.
local function link(name, target, token, epoch)
  if name == target then return true end
  if call('EXISTS', queue_key(name, 'outbox'), queue_key(name, 'replies')) > 0 then return false end
  local tenant = call('HGET', conversation_record(name), 'tenant')
  local other = call('HGET', conversation_record(target), 'tenant')
  if tenant and other and tenant ~= other then return false end
  local mine = token and held_until(name, 'inbox', token, epoch)
  if mine then
    call('HINCRBY', event_record(call('LINDEX', queue_key(name, 'inbox'), 0)), 'starts', -1)
  elseif now < tonumber(call('HGET', conversation_record(name), 'inbox.until') or 0) then
    return false
  end
  if call('EXISTS', queue_key(name, 'inbox')) == 1 then bring_along(name, target) end
  if tenant and call('EXISTS', conversation_record(target)) == 1 then
    call('HSET', conversation_record(target), 'tenant', tenant)
  end
  call('SET', alias_key(name), target, 'PX', retention)
  local own = tonumber(call('GET', pause_key(name)) or 0)
  if own > math.max(now, tonumber(call('GET', pause_key(target)) or 0)) then
    call('SET', pause_key(target), own, 'PX', own - now)
  end
  call('DEL', pause_key(name))
  return true
end

local function cursor_of(conversation, queue)
  local has = call('HMGET', conversation_record(conversation),
    queue .. '.operation', queue .. '.pos', queue .. '.sent', queue .. '.tries', queue .. '.note',
    queue .. '.echoes')
  return has[1] and has
end

local function inbox(conversation)
  local events = {}
  for _, event in ipairs(call('LRANGE', queue_key(conversation, 'inbox'), 0, -1)) do
    local has = call('HMGET', event_record(event), 'payload', 'at', 'starts', 'errors')
    events[#events + 1] = { event, has[1], has[2], has[3], has[4] }
  end
  return events
end

local function acquired(conversation, queue)
  local work = queue == 'inbox' and 'outbox' or queue
  local has = call('HMGET', conversation_record(conversation), queue .. '.token', queue .. '.epoch',
    queue .. '.until', 'turns', work .. '.anchor', 'snapshot_until', 'tenant')
  local events, snapshot = {}, false
  if queue == 'inbox' then
    events = inbox(conversation)
    snapshot = now < tonumber(has[6] or 0) and call('GET', part_key(conversation, 'snap'))
  end
  return {
    conversation, has[1], has[2], has[3], now, has[4], events,
    call('LRANGE', queue_key(conversation, work), 0, -1), cursor_of(conversation, work), has[5], snapshot,
    queue == 'inbox' and is_paused(conversation) and 1 or 0, has[7],
  }
end

-- Leases the queue if it is due, or again to the token that holds it; false if it is neither.
local function acquire(conversation, queue, token, lease, account_concurrency)
  local record = conversation_record(conversation)
  local has = call('HMGET', record, queue .. '.token', queue .. '.until')
  if has[1] == token and has[2] then return acquired(conversation, queue) end
  local at = due(conversation, queue)
  if not at or at > now or is_full(account_of(conversation), queue, account_concurrency) then return false end
  call('HINCRBY', record, queue .. '.epoch', 1)
  call('HSET', record, queue .. '.token', token, queue .. '.until', now + lease)
  call('SET', token_key(queue, token), conversation, 'PX', math.max(lease, 1))
  if queue == 'inbox' then
    call('HINCRBY', event_record(call('LINDEX', queue_key(conversation, queue), 0)), 'starts', 1)
  end
  if not is_claim(conversation) then
    local places, account = places_key(queue), account_of(conversation)
    local place = tonumber(call('HGET', places, account) or 0)
    -- One more than before, so that acquires within one millisecond go around too.
    call('HSET', places, account, math.max(place, now * 1000) + 1)
  end
  schedule(conversation, queue)
  return acquired(conversation, queue)
end

-- Operations -------------------------------------------------------------------------------------

-- Why the operation at the head of a queue cannot be moved on; nil if it can.
local function refusal(conversation, queue, token, epoch, operation, pos)
  if call('LINDEX', queue_key(conversation, queue), 0) ~= operation then return 'already' end
  local cursor = cursor_of(conversation, queue)
  if cursor and pos and tonumber(cursor[2]) > tonumber(pos) then return 'already' end
  if not held_until(conversation, queue, token, epoch) then return 'fenced' end
end

-- Puts the cursor on a part. What was noted about an earlier part is forgotten.
local function move_to(conversation, queue, operation, pos)
  local cursor = cursor_of(conversation, queue)
  if cursor and cursor[1] == operation and cursor[2] == pos then return end
  local record = conversation_record(conversation)
  call('HSET', record, queue .. '.operation', operation, queue .. '.pos', pos, queue .. '.tries', 0)
  call('HDEL', record, queue .. '.sent', queue .. '.note', queue .. '.echoes')
end

-- Removes the operation at the head; a list holds an id and a body for each.
local function drop_head(conversation, queue)
  call('LTRIM', queue_key(conversation, queue), 2, -1)
  call('HDEL', conversation_record(conversation), queue .. '.operation', queue .. '.pos', queue .. '.sent',
    queue .. '.tries', queue .. '.note', queue .. '.echoes')
  count(COUNTERS[queue], -1)
end

-- Notes that a part of the head operation is confirmed; the last part removes the operation.
local function confirm(conversation, queue, token, epoch, operation, pos, last, anchor)
  local record = conversation_record(conversation)
  local this_call = table.concat({ 'confirm', epoch, token, pos, operation }, ' ')
  if call('HGET', record, queue .. '.last') == this_call then return 'done' end
  local refused = refusal(conversation, queue, token, epoch, operation, pos)
  if refused then return refused end
  anchor = optional(anchor)
  if anchor then call('HSET', record, queue .. '.anchor', anchor) end
  call('HSET', record, queue .. '.last', this_call)
  call('HDEL', record, queue .. '.not_before')
  if last == '1' then drop_head(conversation, queue) else move_to(conversation, queue, operation, pos + 1) end
  schedule(conversation, queue)
  keep_while_busy(conversation)
  return 'done'
end
