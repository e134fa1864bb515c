-- Erases what could still be worked on in a conversation, and what waits for an operator. With '1' a
-- name stands for where it leads to. Answers the conversation's handle, and the time.
local cid = ARGV[4] == '1' and follow(ARGV[3]) or ARGV[3]
local waiting = call('LRANGE', queue_key(cid, 'turn'), 0, -1)
for _, eid in ipairs(waiting) do call('DEL', event_key(eid)) end
count('queued', 0 - #waiting)
count('writes', 0 - call('LLEN', queue_key(cid, 'write')) / 2)
count('says', 0 - call('LLEN', queue_key(cid, 'say')) / 2)
count('parked', 0 - call('LLEN', part_key(cid, 'parked')) / WIDTH)
each_dead(cid, function(eid)
  call('ZREM', prefix .. 'dead', eid)
  call('DEL', event_key(eid))
end)
for _, lane in ipairs(LANES) do
  call('DEL', queue_key(cid, lane))
end
call('DEL', conversation_key(cid), part_key(cid, 'parked'), part_key(cid, 'snap'), pause_key(cid),
  alias_key(cid))
call('ZREM', prefix .. 'parked', cid)
for _, lane in ipairs(LANES) do schedule(cid, lane) end
return { cid, now }
