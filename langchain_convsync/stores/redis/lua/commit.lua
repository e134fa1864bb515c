-- Ends a turn: its events, operations and snapshot change together, and the queue is given back.
-- After the fixed arguments: for every event its event_key and optional outcome, for every operation of
-- the outbox and then of the reply queue its id and body, at last those events that are kept.
local conversation, token, epoch, dead, unless_paused, unless_newer, snapshot, snapshot_ttl, reason,
  fact, replies_kept, tenant, note, pause, held, held_payload, held_for, kept_for, kept, events, operations, replies = unpack(ARGV, 3)
events, operations, replies, kept = tonumber(events), tonumber(operations), tonumber(replies), tonumber(kept)
fact, replies_kept, tenant = optional(fact), tonumber(replies_kept), optional(tenant)
note, pause = optional(note), tonumber(pause)
local FIRST = 25 -- where the lists begin in ARGV
local by = ended_by(epoch, token)
local list, record = queue_key(conversation, 'inbox'), conversation_record(conversation)

local head = known_event(ARGV[FIRST])
if head and head.state ~= 'queued' then return head.ended_by == by and 'done' or 'already' end
if not held_until(conversation, 'inbox', token, epoch) then return 'fenced' end
local STAYS = FIRST + 2 * (events + operations + replies) -- where those that are kept begin
local waiting, answers, stays = call('LRANGE', list, 0, events + kept - 1), 0, 0
for i = 1, events + kept do
  if answers < events and waiting[i] == ARGV[FIRST + 2 * answers] then
    answers = answers + 1
  elseif stays < kept and waiting[i] == ARGV[STAYS + stays] then
    stays = stays + 1
  else
    return 'fenced'
  end
end

if unless_paused == '1' and is_paused(conversation) then return 'paused' end
if unless_newer == '1' and call('LLEN', list) > events + kept then return 'newer' end

-- Whatever is damaged shows before the first change: nothing is rolled back.
local lengths = {
  outbox = call('LLEN', queue_key(conversation, 'outbox')),
  replies = call('LLEN', queue_key(conversation, 'replies')),
}
call('HINCRBY', record, 'turns', 1)

local function enqueue(queue, at, amount)
  if amount == 0 then return at end
  local work = queue_key(conversation, queue)
  if lengths[queue] == 0 then -- an empty queue's delay, if it has one, is still to be kept
    local since = number(call('HGET', record, queue .. '.not_before')) or 0
    call('HSET', record, queue .. '.not_before', math.max(since, now))
  end
  for i = at, at + 2 * amount - 1 do call('RPUSH', work, ARGV[i]) end
  for i = at, at + 2 * amount - 1, 2 do note_queued(conversation, queue, ARGV[i]) end
  count(COUNTERS[queue], amount)
  schedule(conversation, queue)
  return at + 2 * amount
end

for i = FIRST, FIRST + 2 * events - 1, 2 do
  local record, outcome = event_record(ARGV[i]), optional(ARGV[i + 1])
  if outcome and replies_kept > 0 then keep_said(ARGV[i], outcome, replies_kept) end
  if dead == '1' then
    call('HSET', record, 'state', 'dead', 'ended_by', by)
    if fact then call('HSET', record, 'fact', fact) end
    call('ZADD', prefix .. 'dead', now, ARGV[i])
    if reason ~= '' then call('HSET', record, 'reason', reason) end
  else
    finish(ARGV[i], fact, by)
  end
end
call('LTRIM', list, events + kept, -1)
for i = STAYS + kept - 1, STAYS, -1 do call('LPUSH', list, ARGV[i]) end
if kept > 0 then call('HSET', event_record(ARGV[STAYS]), 'starts', 0, 'errors', 0) end
count('queued', -events)
if tenant then call('HSETNX', record, 'tenant', tenant) end
if note then call('HSET', record, 'note', note) end
if pause > 0 then call('SET', pause_key(conversation), now + pause, 'PX', pause) end
give_back(conversation, 'inbox')
waits(conversation, 'inbox')
local is_due = call('HGET', record, 'inbox.held') == '0'
hold(conversation)
if held ~= '' then -- at the head, before what waits already
  call('HSET', event_record(held), 'state', 'queued', 'conversation', conversation, 'digest', '',
    'payload', held_payload, 'by', by, 'at', now, 'starts', 0, 'errors', 0, 'facts', '')
  call('LPUSH', list, held)
  count('queued', 1)
end
if held ~= '' or (kept > 0 and not is_due) then
  local wait = held == '' and kept_for or kept == 0 and held_for or math.min(held_for, kept_for)
  call('HSET', record, 'inbox.not_before', now + wait)
  hold(conversation, held == '' and kept or kept + 1)
end
enqueue('replies', enqueue('outbox', FIRST + 2 * events, operations), replies)

snapshot = optional(snapshot)
if snapshot and tonumber(snapshot_ttl) > 0 then
  call('SET', part_key(conversation, 'snap'), snapshot, 'PX', snapshot_ttl)
  call('HSET', record, 'snapshot_until', now + snapshot_ttl)
else
  call('DEL', part_key(conversation, 'snap'))
  call('HDEL', record, 'snapshot_until')
end
schedule(conversation, 'inbox')
keep_while_busy(conversation)
return 'done'
