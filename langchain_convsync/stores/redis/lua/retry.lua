-- Notes that a part of the head operation is to be tried again, after a delay.
local conversation, queue, token, epoch, operation, pos, delay, sent, note = unpack(ARGV, 3)
local refused = refusal(conversation, queue, token, epoch, operation, pos)
if refused then return refused end
local record = conversation_record(conversation)
move_to(conversation, queue, operation, pos)
if sent ~= '1' then call('HDEL', record, queue .. '.sent', queue .. '.echoes') end
note = optional(note)
if note then call('HSET', record, queue .. '.note', note) end
call('HSET', record, queue .. '.not_before', now + delay)
schedule(conversation, queue)
return 'done'
