-- Makes the head operation a dead letter, and the rest of its turn with it.
local conversation, queue, token, epoch, operation, turn, reason = unpack(ARGV, 3)
local record = conversation_record(conversation)
local this_call = table.concat({ 'set_dead', epoch, token, operation }, ' ')
if call('HGET', record, queue .. '.last') == this_call then return 'done' end
local refused = refusal(conversation, queue, token, epoch, operation)
if refused then return refused end
call('HSET', record, queue .. '.last', this_call)
call('HDEL', record, queue .. '.not_before')
waits(conversation, queue)
bury_turn(conversation, queue, turn, reason, cursor_of(conversation, queue) or {})
schedule(conversation, queue)
keep_while_busy(conversation)
return 'done'
