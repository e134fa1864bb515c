-- Gives what was set aside back to the workers, once; 0 when it is not set aside any more. A dead
-- letter becomes a new event, whose handle is `note`; a parked operation gets a new id.
local source, lane, id, note, renewed, body = unpack(ARGV, 3)
if call('EXISTS', event_key(note)) == 1 then return 1 end
local cid = follow(source)
local conversation, queue = conversation_key(cid), queue_key(cid, lane)
body = optional(body)

if lane == 'turn' then
  local dead = call('HMGET', event_key(id), 'state', 'payload', 'digest')
  if dead[1] ~= 'dead' then return 0 end
  call('HSET', event_key(note), 'state', 'queued', 'cid', cid, 'digest', dead[3],
    'payload', body or dead[2], 'by', note, 'at', now, 'starts', 0, 'errors', 0)
  call('RPUSH', queue, note)
  call('HSETNX', conversation, 'quiet', 0)
  call('HSETNX', conversation, 'max_quiet', 0)
  bury(id)
else
  local parked = unpark(source, lane, id)
  if not parked then return 0 end
  if call('EXISTS', queue) == 0 then
    local since = tonumber(call('HGET', conversation, lane .. '.not_before') or 0)
    call('HSET', conversation, lane .. '.not_before', math.max(since, now))
  end
  call('RPUSH', queue, renewed, body or parked)
  remember(note, cid)
end
count(COUNTERS[lane], 1)
schedule(cid, lane)
keep_while_busy(cid)
return 1
