-- Sets the head operation aside for an operator, and the rest of its turn with it. The list of parked
-- operations holds nine elements for each: lane, id, body, reason, time, and the cursor's pos, sent,
-- tries and note as they were ('' where they were not).
local cid, lane, token, epoch, op, turn, reason = unpack(ARGV, 3)
local conversation, queue = conversation_key(cid), queue_key(cid, lane)
local this_call = table.concat({ 'park', epoch, token, op }, ' ')
if call('HGET', conversation, lane .. '.last') == this_call then return 'done' end
local refused = refusal(cid, lane, token, epoch, op)
if refused then return refused end
call('HSET', conversation, lane .. '.last', this_call)
call('HDEL', conversation, lane .. '.not_before')
local head = call('LRANGE', queue, 0, 1)
while head[1] and head[1]:sub(1, #turn) == turn do
  local cursor = cursor_of(cid, lane) or {}
  call('RPUSH', part_key(cid, 'parked'), lane, head[1], head[2], reason, now,
    cursor[2] or '', cursor[3] or '', cursor[4] or '', cursor[5] or '')
  count('parked', 1)
  drop_head(cid, lane)
  head = call('LRANGE', queue, 0, 1)
end
call('ZADD', prefix .. 'parked', 'NX', now, cid)
schedule(cid, lane)
keep_while_busy(cid)
return 'done'
