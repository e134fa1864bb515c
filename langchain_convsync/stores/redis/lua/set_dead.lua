-- Makes the head operation a dead letter, and the rest of its turn with it. The list of dead operations
-- holds nine elements for each: queue, id, body, reason, time, and the cursor's pos, sent,
-- tries and note as they were ('' where they were not).
local conversation, queue, token, epoch, operation, turn, reason = unpack(ARGV, 3)
local record, list = conversation_record(conversation), queue_key(conversation, queue)
local this_call = table.concat({ 'set_dead', epoch, token, operation }, ' ')
if call('HGET', record, queue .. '.last') == this_call then return 'done' end
local refused = refusal(conversation, queue, token, epoch, operation)
if refused then return refused end
call('HSET', record, queue .. '.last', this_call)
call('HDEL', record, queue .. '.not_before')
local head = call('LRANGE', list, 0, 1)
while head[1] and head[1]:sub(1, #turn) == turn do
  local cursor = cursor_of(conversation, queue) or {}
  call('RPUSH', part_key(conversation, 'dead_operations'), queue, head[1], head[2], reason, now,
    cursor[2] or '', cursor[3] or '', cursor[4] or '', cursor[5] or '')
  count('dead_operations', 1)
  drop_head(conversation, queue)
  head = call('LRANGE', list, 0, 1)
end
call('ZADD', prefix .. 'dead_operations', 'NX', now, conversation)
schedule(conversation, queue)
keep_while_busy(conversation)
return 'done'
