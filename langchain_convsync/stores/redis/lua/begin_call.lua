-- Notes that a turn calls a tool; answers who began the call and what it came to, false when fenced. The
-- arguments end in the turn's events, the head first.
local conversation, queue, token, epoch, name, by, head = unpack(ARGV, 3)
if not held_until(conversation, queue, token, epoch) then return false end
if call('HGET', event_record(head), 'state') ~= 'queued' then return false end
local by_field, result_field = call_fields(name)
for i = 9, #ARGV do
  local kept = call('HMGET', event_record(ARGV[i]), by_field, result_field)
  if kept[1] then return kept end
end
call('HSET', event_record(head), 'calls', 1, by_field, by)
return { by, false }
