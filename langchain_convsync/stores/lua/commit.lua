-- Ends a turn: its events, operations and snapshot change together, and the lane is given back.
-- After the fixed arguments: for every event its eid and optional outcome, for every operation of
-- the outbox and then of the say queue its id and body.
local cid, token, epoch, dead, unless_paused, unless_newer, snapshot, snapshot_ttl, events, ops, says =
  unpack(ARGV, 3)
events, ops, says = tonumber(events), tonumber(ops), tonumber(says)
local FIRST = 14 -- where the lists begin in ARGV
local by = epoch .. ' ' .. token
local queue, conversation = queue_key(cid, 'turn'), conversation_key(cid)

local head = call('HMGET', event_key(ARGV[FIRST]), 'state', 'ended_by')
if head[1] and head[1] ~= 'queued' then return head[2] == by and 'done' or 'already' end
if not held_until(cid, 'turn', token, epoch) then return 'fenced' end
local waiting = call('LRANGE', queue, 0, events - 1)
for i = 1, events do
  if waiting[i] ~= ARGV[FIRST + 2 * (i - 1)] then return 'fenced' end
end

if unless_paused == '1' and is_paused(cid) then return 'paused' end
if unless_newer == '1' and call('LLEN', queue) > events then return 'newer' end

local function enqueue(lane, at, amount)
  if amount == 0 then return at end
  local work = queue_key(cid, lane)
  if call('EXISTS', work) == 0 then -- an empty lane's delay, if it has one, is still to be kept
    local since = tonumber(call('HGET', conversation, lane .. '.not_before') or 0)
    call('HSET', conversation, lane .. '.not_before', math.max(since, now))
  end
  for i = at, at + 2 * amount - 1 do call('RPUSH', work, ARGV[i]) end
  count(COUNTERS[lane], amount)
  schedule(cid, lane)
  return at + 2 * amount
end

for i = FIRST, FIRST + 2 * events - 1, 2 do
  local event, outcome = event_key(ARGV[i]), optional(ARGV[i + 1])
  call('HSET', event, 'state', dead == '1' and 'dead' or 'done', 'ended_by', by)
  if outcome then call('HSET', event, 'outcome', outcome) end
  if dead == '1' then
    call('ZADD', prefix .. 'dead', now, ARGV[i])
  else
    call('HDEL', event, 'payload', 'starts', 'errors')
    call('PEXPIRE', event, retention)
  end
end
call('LTRIM', queue, events, -1)
count('queued', -events)
call('HINCRBY', conversation, 'turns', 1)
call('HDEL', conversation, 'turn.until')
enqueue('say', enqueue('write', FIRST + 2 * events, ops), says)

snapshot = optional(snapshot)
if snapshot and tonumber(snapshot_ttl) > 0 then
  call('SET', part_key(cid, 'snap'), snapshot, 'PX', snapshot_ttl)
  call('HSET', conversation, 'snapshot_until', now + snapshot_ttl)
else
  call('DEL', part_key(cid, 'snap'))
  call('HDEL', conversation, 'snapshot_until')
end
schedule(cid, 'turn')
keep_while_busy(cid)
return 'done'
