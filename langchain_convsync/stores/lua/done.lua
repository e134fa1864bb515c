-- Notes that a part of the head operation is confirmed; the last part removes the operation.
local cid, lane, token, epoch, op, pos, last, anchor = unpack(ARGV, 3)
local conversation = conversation_key(cid)
local this_call = table.concat({ 'done', epoch, token, pos, op }, ' ')
if call('HGET', conversation, lane .. '.last') == this_call then return 'done' end
local refused = refusal(cid, lane, token, epoch, op, pos)
if refused then return refused end
anchor = optional(anchor)
if anchor then call('HSET', conversation, lane .. '.anchor', anchor) end
call('HSET', conversation, lane .. '.last', this_call)
call('HDEL', conversation, lane .. '.not_before')
if last == '1' then drop_head(cid, lane) else move_to(cid, lane, op, pos + 1) end
schedule(cid, lane)
keep_while_busy(cid)
return 'done'
