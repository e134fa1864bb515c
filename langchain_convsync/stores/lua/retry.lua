-- Notes that a part of the head operation is to be tried again, after a delay.
local cid, lane, token, epoch, op, pos, delay, sent, note = unpack(ARGV, 3)
local refused = refusal(cid, lane, token, epoch, op, pos)
if refused then return refused end
local conversation = conversation_key(cid)
move_to(cid, lane, op, pos)
if sent ~= '1' then call('HDEL', conversation, lane .. '.sent', lane .. '.heard') end
note = optional(note)
if note then call('HSET', conversation, lane .. '.note', note) end
call('HSET', conversation, lane .. '.not_before', now + delay)
schedule(cid, lane)
return 'done'
