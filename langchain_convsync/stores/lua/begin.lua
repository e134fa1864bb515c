-- Notes that a part of the head operation goes on the wire; answers the cursor, false when fenced.
-- The arguments may end in what is to be noted as confirmed before it.
local cid, lane, token, epoch, op, pos, attempt, need, note = unpack(ARGV, 3)
if ARGV[12] and confirm(cid, lane, token, epoch, unpack(ARGV, 12)) == 'fenced' then return false end
if refusal(cid, lane, token, epoch, op, pos) then return false end
local conversation = conversation_key(cid)
move_to(cid, lane, op, pos)
local cursor = cursor_of(cid, lane)
if cursor[4] ~= attempt or not cursor[3] then
  call('HSET', conversation, lane .. '.tries', attempt, lane .. '.sent', now)
  call('HDEL', conversation, lane .. '.heard')
end
note = optional(note)
if note then call('HSET', conversation, lane .. '.note', note) end
local ends = held_until(cid, lane, token, epoch)
call('HSET', conversation, lane .. '.until', math.max(ends, now + need))
schedule(cid, lane)
return cursor_of(cid, lane)
