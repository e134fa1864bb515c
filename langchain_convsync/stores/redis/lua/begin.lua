-- Notes that a part of the head operation goes on the wire; answers the cursor, false when fenced.
-- The arguments may end in what is to be noted as confirmed before it.
local conversation, queue, token, epoch, operation, pos, attempt, need, note = unpack(ARGV, 3)
if ARGV[12] and confirm(conversation, queue, token, epoch, unpack(ARGV, 12)) == 'fenced' then return false end
if refusal(conversation, queue, token, epoch, operation, pos) then return false end
if not may_send(conversation, queue, token) then return false end
local record = conversation_record(conversation)
move_to(conversation, queue, operation, pos)
local cursor = cursor_of(conversation, queue)
if cursor[4] ~= attempt or not cursor[3] then
  call('HSET', record, queue .. '.tries', attempt, queue .. '.sent', now)
  call('HDEL', record, queue .. '.echoes')
end
note = optional(note)
if note then call('HSET', record, queue .. '.note', note) end
local ends = held_until(conversation, queue, token, epoch)
call('HSET', record, queue .. '.until', math.max(ends, now + need))
schedule(conversation, queue)
return cursor_of(conversation, queue)
