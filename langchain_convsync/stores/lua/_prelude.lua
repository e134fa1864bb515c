-- What every operation shares: the keys, the clock, and the three lanes of a conversation.
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

local QUEUES = { turn = 'in', write = 'out', say = 'say' }
local COUNTERS = { turn = 'queued', write = 'writes', say = 'says' }

local function event_key(eid) return prefix .. 'ev:' .. eid end
local function alias_key(cid) return prefix .. 'alias:' .. cid end
local function pause_key(cid) return prefix .. 'pause:' .. cid end
local function conversation_key(cid) return prefix .. 'c:' .. cid end
local function part_key(cid, part) return prefix .. 'c:' .. cid .. ':' .. part end
local function queue_key(cid, lane) return part_key(cid, QUEUES[lane]) end
local function token_key(lane, token) return prefix .. 'token:' .. lane .. ':' .. token end
local function ready_key(lane, account) return prefix .. 'ready:' .. lane .. ':' .. account end
local function running_key(account) return prefix .. 'running:' .. account end
local function accounts_key(lane) return prefix .. 'accounts:' .. lane end
local function places_key(lane) return prefix .. 'places:' .. lane end
local function account_of(cid) return cid:sub(1, 15) end
local function is_claim(cid) return cid:sub(4, 15) == '000000000000' end

local function count(name, change) call('HINCRBY', prefix .. 'count', name, change) end

local function optional(text)
  if text ~= '' then return text:sub(2) end
end

-- Due work ---------------------------------------------------------------------------------------

-- When a lane can be taken: after its lease, its delay and the quiet window. Nil without work.
-- Besides, the end of its lease.
local function due(cid, lane)
  local queue = queue_key(cid, lane)
  if call('EXISTS', queue) == 0 then return nil end
  local has = call('HMGET', conversation_key(cid),
    lane .. '.until', lane .. '.not_before', 'quiet', 'max_quiet')
  local at = math.max(tonumber(has[1] or 0), tonumber(has[2] or 0))
  if lane ~= 'turn' then return at, has[1] end
  local first = call('HGET', event_key(call('LINDEX', queue, 0)), 'at')
  local last = call('HGET', event_key(call('LINDEX', queue, -1)), 'at')
  return math.max(at, math.min(first + has[4], last + has[3])), has[1]
end

-- Brings the indexes of due work and of running turns up to date. An account's place in the ring is
-- the microsecond of its last take; it comes up at that or at its oldest due work, whichever is later.
local function schedule(cid, lane)
  if is_claim(cid) then return end
  local account = account_of(cid)
  local at, ends = due(cid, lane)
  if lane == 'turn' then
    local running = running_key(account)
    if ends then call('ZADD', running, ends, cid) else call('ZREM', running, cid) end
  end
  local ready = ready_key(lane, account)
  if at then call('ZADD', ready, at, cid) else call('ZREM', ready, cid) end
  local head = call('ZRANGE', ready, 0, 0, 'WITHSCORES')
  if head[2] then
    local place = tonumber(call('HGET', places_key(lane), account) or 0)
    call('ZADD', accounts_key(lane), math.max(place, head[2] * 1000), account)
  else
    call('ZREM', accounts_key(lane), account)
    call('HDEL', places_key(lane), account)
  end
end

-- To be called when work was added to or taken from a conversation: only an idle one expires.
local function keep_while_busy(cid)
  local busy = call('EXISTS', queue_key(cid, 'turn'), queue_key(cid, 'write'), queue_key(cid, 'say'))
  if busy > 0 then
    call('PERSIST', conversation_key(cid))
  else
    call('PEXPIRE', conversation_key(cid), retention)
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

-- The end of the lease, while nobody followed and it was not given back.
local function held_until(cid, lane, token, epoch)
  local has = call('HMGET', conversation_key(cid),
    lane .. '.token', lane .. '.epoch', lane .. '.until')
  if has[1] == token and has[2] == epoch and has[3] then return tonumber(has[3]) end
end

-- Whether so many turns of the account run already; 0 stands for any number.
local function is_full(account, lane, at_once)
  if lane ~= 'turn' or at_once == 0 then return false end
  return call('ZCOUNT', running_key(account), '(' .. now, '+inf') >= at_once
end

local function is_paused(cid)
  return now < tonumber(call('GET', pause_key(cid)) or 0)
end

-- Puts the events that wait under a name behind those of a conversation.
local function bring_along(name, target)
  local own, there = conversation_key(name), conversation_key(target)
  local windows = call('HMGET', own, 'quiet', 'max_quiet')
  for _, eid in ipairs(call('LRANGE', queue_key(name, 'turn'), 0, -1)) do
    call('HSET', event_key(eid), 'cid', target)
    call('RPUSH', queue_key(target, 'turn'), eid)
    call('HSETNX', there, 'quiet', windows[1])
    call('HSETNX', there, 'max_quiet', windows[2])
  end
  call('DEL', queue_key(name, 'turn'))
  call('HDEL', own, 'turn.until')
  for _, cid in ipairs({ target, name }) do -- in this order, so that their account keeps its place
    schedule(cid, 'turn')
    keep_while_busy(cid)
  end
end

-- Lets a name lead to a conversation, which is no alias itself, hence never in a circle; its events
-- and a human's takeover go along. Whether it leads there now: not while it has operations, or a
-- turn that is not the caller's, whose lease may be given.
local function link(name, target, token, epoch)
  if name == target then return true end
  if call('EXISTS', queue_key(name, 'write'), queue_key(name, 'say')) > 0 then return false end
  local mine = token and held_until(name, 'turn', token, epoch)
  if mine then
    call('HINCRBY', event_key(call('LINDEX', queue_key(name, 'turn'), 0)), 'starts', -1)
  elseif now < tonumber(call('HGET', conversation_key(name), 'turn.until') or 0) then
    return false
  end
  if call('EXISTS', queue_key(name, 'turn')) == 1 then bring_along(name, target) end
  call('SET', alias_key(name), target, 'PX', retention)
  local own = tonumber(call('GET', pause_key(name)) or 0)
  if own > math.max(now, tonumber(call('GET', pause_key(target)) or 0)) then
    call('SET', pause_key(target), own, 'PX', own - now)
  end
  call('DEL', pause_key(name))
  return true
end

local function cursor_of(cid, lane)
  local has = call('HMGET', conversation_key(cid),
    lane .. '.op', lane .. '.pos', lane .. '.sent', lane .. '.tries', lane .. '.note',
    lane .. '.heard')
  return has[1] and has
end

local function inbox(cid)
  local events = {}
  for _, eid in ipairs(call('LRANGE', queue_key(cid, 'turn'), 0, -1)) do
    local has = call('HMGET', event_key(eid), 'payload', 'at', 'starts', 'errors')
    events[#events + 1] = { eid, has[1], has[2], has[3], has[4] }
  end
  return events
end

local function taken(cid, lane)
  local queue = lane == 'turn' and 'write' or lane
  local has = call('HMGET', conversation_key(cid), lane .. '.token', lane .. '.epoch',
    lane .. '.until', 'turns', queue .. '.anchor', 'snapshot_until')
  local events, snapshot = {}, false
  if lane == 'turn' then
    events = inbox(cid)
    snapshot = now < tonumber(has[6] or 0) and call('GET', part_key(cid, 'snap'))
  end
  return {
    cid, has[1], has[2], has[3], now, has[4], events,
    call('LRANGE', queue_key(cid, queue), 0, -1), cursor_of(cid, queue), has[5], snapshot,
    lane == 'turn' and is_paused(cid) and 1 or 0,
  }
end

-- Leases the lane if it is due, or again to the token that holds it; false if it is neither.
local function take(cid, lane, token, lease, at_once)
  local conversation = conversation_key(cid)
  local has = call('HMGET', conversation, lane .. '.token', lane .. '.until')
  if has[1] == token and has[2] then return taken(cid, lane) end
  local at = due(cid, lane)
  if not at or at > now or is_full(account_of(cid), lane, at_once) then return false end
  call('HINCRBY', conversation, lane .. '.epoch', 1)
  call('HSET', conversation, lane .. '.token', token, lane .. '.until', now + lease)
  call('SET', token_key(lane, token), cid, 'PX', math.max(lease, 1))
  if lane == 'turn' then
    call('HINCRBY', event_key(call('LINDEX', queue_key(cid, lane), 0)), 'starts', 1)
  end
  if not is_claim(cid) then
    local places, account = places_key(lane), account_of(cid)
    local place = tonumber(call('HGET', places, account) or 0)
    -- One more than before, so that takes within one millisecond go around too.
    call('HSET', places, account, math.max(place, now * 1000) + 1)
  end
  schedule(cid, lane)
  return taken(cid, lane)
end

-- Operations -------------------------------------------------------------------------------------

-- Why the operation at the head of a lane cannot be moved on; nil if it can.
local function refusal(cid, lane, token, epoch, op, pos)
  if call('LINDEX', queue_key(cid, lane), 0) ~= op then return 'already' end
  local cursor = cursor_of(cid, lane)
  if cursor and pos and tonumber(cursor[2]) > tonumber(pos) then return 'already' end
  if not held_until(cid, lane, token, epoch) then return 'fenced' end
end

-- Puts the cursor on a part. What was noted about an earlier part is forgotten.
local function move_to(cid, lane, op, pos)
  local cursor = cursor_of(cid, lane)
  if cursor and cursor[1] == op and cursor[2] == pos then return end
  local conversation = conversation_key(cid)
  call('HSET', conversation, lane .. '.op', op, lane .. '.pos', pos, lane .. '.tries', 0)
  call('HDEL', conversation, lane .. '.sent', lane .. '.note', lane .. '.heard')
end

-- Removes the operation at the head; a queue holds an id and a body for each.
local function drop_head(cid, lane)
  call('LTRIM', queue_key(cid, lane), 2, -1)
  call('HDEL', conversation_key(cid), lane .. '.op', lane .. '.pos', lane .. '.sent',
    lane .. '.tries', lane .. '.note', lane .. '.heard')
  count(COUNTERS[lane], -1)
end

-- Notes that a part of the head operation is confirmed; the last part removes the operation.
local function confirm(cid, lane, token, epoch, op, pos, last, anchor)
  local conversation = conversation_key(cid)
  local this_call = table.concat({ 'done', epoch, token, pos, op }, ' ')
  if call('HGET', conversation, lane .. '.last') == this_call then return 'done' end
  local refused = refusal(cid, lane, token, epoch, op, pos)
  if refused then return refused end
  anchor = optional(anchor)
  if anchor then call('HSET', conversation, lane .. '.anchor', anchor) end
  call('HSET', conversation, lane .. '.last', this_call)
  call('HDEL', conversation, lane .. '.not_before')
  if last == '1' then drop_head(cid, lane) else move_to(cid, lane, op, pos + 1) end
  schedule(cid, lane)
  keep_while_busy(cid)
  return 'done'
end
