-- Records an event once, and acquires its conversation's inbox in the same step if it can.
-- `by` tells a repeated call from another delivery of the same event. KEYS[2] is where events are looked
-- for that another delivery of the same message may have told.
local event, names, digest, payload, by, token, lease, debounce, max_debounce, max_queued,
  account_concurrency, pause, source, facts, asker = unpack(ARGV, 3)
lease, account_concurrency, pause = tonumber(lease), tonumber(account_concurrency), tonumber(pause)

origin, is_muted = asker, token ~= '' -- it may be acquired in this step
local aliases = {}
for name in names:gmatch('%S+') do aliases[#aliases + 1] = name end
local conversation, is_one

local function due_in()
  return math.max(0, (due(conversation, 'inbox') or 0) - now)
end

-- Learns from another delivery of a message: more about it, and whose names are one.
local function meet(other)
  prefix = prefix_of(other)
  local has = known_event(other)
  keep_facts(event_record(other), has.state, joined(has.facts, facts))
  if account_of(conversation) == account_of(has.conversation) then unite({ has.conversation, conversation }) end
  event = other
end

conversation, is_one = unite(aliases)
if call('EXISTS', event_record(event)) == 0 and source ~= '' then
  local other = only_one_of(source, facts, facts == '' and conversation)
  if other then meet(other) end
end
local known = known_event(event)
local status, state, outcome, differs = 'new', 'queued', false, 0
if known then
  conversation = known.conversation or conversation -- it may have moved
  state = known.state
  outcome = state ~= 'queued' and said_of(event) or known.fact or false
  if state == 'queued' and call('EXISTS', queue_key(conversation, 'inbox')) == 0 then -- the list was lost
    call('RPUSH', queue_key(conversation, 'inbox'), event)
    schedule(conversation, 'inbox')
    keep_while_busy(conversation)
  end
  if known.by ~= ending(by) then status = 'duplicate' end
  if known.digest ~= ending(digest) then differs = 1 end
else
  if pause > 0 then call('SET', pause_key(conversation), now + pause, 'PX', pause) end
  local list = queue_key(conversation, 'inbox')
  if call('LLEN', list) >= tonumber(max_queued) then
    return { 'busy', conversation, event, false, false, 0, due_in(), false }
  end
  call('HSET', event_record(event), 'state', 'queued', 'conversation', conversation, 'digest', digest,
    'payload', payload, 'by', by, 'at', now, 'starts', 0, 'errors', 0, 'facts', facts)
  if source ~= '' then list_under(source, event) end
  call('RPUSH', list, event)
  call('HSET', conversation_record(conversation), 'debounce', debounce, 'max_debounce', max_debounce)
  count('queued', 1)
  keep_while_busy(conversation)
  schedule(conversation, 'inbox')
end

if state == 'queued' and not is_one then call('HSET', event_record(event), 'apart', names) end
if state ~= 'queued' then return { status, conversation, event, state, outcome, differs, 0, false } end
local inbox = token ~= '' and acquire(conversation, 'inbox', token, lease, account_concurrency)
if is_muted and not inbox then
  is_muted = false
  hint(conversation, 'inbox', due(conversation, 'inbox'))
end
return { status, conversation, event, state, outcome, differs, inbox and 0 or due_in(), inbox }
