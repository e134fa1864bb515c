-- Erases what could still be worked on in a conversation, and what waits for an operator. With '1' a
-- name stands for where it leads to. Answers the conversation's key, the time, and whether it kept
-- anything, of which a note under the call's token is left for a repetition of this very call.
local conversation = ARGV[4] == '1' and follow(ARGV[3]) or ARGV[3]
local note = prefix .. 'token:forget:' .. ARGV[5]
local known = call('GET', note) or is_paused(conversation)
local waiting = call('LRANGE', queue_key(conversation, 'inbox'), 0, -1)
for _, event in ipairs(waiting) do call('DEL', event_record(event)) end
count('queued', 0 - #waiting)
count('writes', 0 - call('LLEN', queue_key(conversation, 'outbox')) / 2)
count('replies', 0 - call('LLEN', queue_key(conversation, 'replies')) / 2)
count('dead_operations', 0 - call('LLEN', part_key(conversation, 'dead_operations')) / WIDTH)
each_dead(conversation, function(event)
  known = true
  call('ZREM', prefix .. 'dead', event)
  call('DEL', event_record(event), said_key(event))
end)
local replies = operations(conversation, 'replies')
for i = 1, #replies, 2 do note_left(conversation, 'replies', replies[i]) end
for _, queue in ipairs(QUEUES) do
  give_back(conversation, queue)
  call('DEL', queue_key(conversation, queue))
end
local kept = call('DEL', conversation_record(conversation), part_key(conversation, 'dead_operations'))
call('DEL', part_key(conversation, 'snap'), pause_key(conversation), alias_key(conversation))
call('ZREM', prefix .. 'dead_operations', conversation)
call('ZREM', prefix .. 'held', conversation)
for _, queue in ipairs(QUEUES) do schedule(conversation, queue) end
known = known or kept > 0
if known then call('SET', note, conversation, 'PX', 60000) end
return { conversation, now, known and 1 or 0 }
