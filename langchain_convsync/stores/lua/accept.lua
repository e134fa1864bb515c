-- Records an event once, and takes its conversation's turn lane in the same step if it can.
-- `by` tells a repeated call from another delivery of the same event.
local eid, cid, alias, digest, payload, by, token, lease, quiet, max_quiet, backlog, at_once =
  unpack(ARGV, 3)
lease, at_once = tonumber(lease), tonumber(at_once)

local function due_in()
  return math.max(0, (due(cid, 'turn') or 0) - now)
end

local known = call('HMGET', event_key(eid), 'state', 'cid', 'digest', 'outcome', 'by')
local status, state, outcome, differs = 'new', 'queued', false, 0
cid = follow(cid)
if known[1] then
  if alias ~= '' then link(alias, cid) end
  cid, state, outcome = call('HGET', event_key(eid), 'cid'), known[1], known[4] -- it may have moved
  if known[5] ~= by then status = 'duplicate' end
  if known[3] ~= digest then differs = 1 end
else
  local queue = queue_key(cid, 'turn')
  if call('LLEN', queue) >= tonumber(backlog) then
    return { 'busy', cid, false, false, 0, due_in(), false }
  end
  if alias ~= '' then link(alias, cid) end
  call('HSET', event_key(eid), 'state', 'queued', 'cid', cid, 'digest', digest, 'payload', payload,
    'by', by, 'at', now, 'starts', 0, 'errors', 0)
  call('RPUSH', queue, eid)
  call('HSET', conversation_key(cid), 'quiet', quiet, 'max_quiet', max_quiet)
  count('queued', 1)
  keep_while_busy(cid)
  schedule(cid, 'turn')
end

if state ~= 'queued' then return { status, cid, state, outcome, differs, 0, false } end
local lane = token ~= '' and take(cid, 'turn', token, lease, at_once)
return { status, cid, state, outcome, differs, lane and 0 or due_in(), lane }
