-- Gives up a dead letter, once; 0 when it is not one any more.
local conversation, queue, id, note = unpack(ARGV, 3)
if call('EXISTS', event_record(note)) == 1 then return 1 end
if queue == 'inbox' then
  if call('HGET', event_record(id), 'state') ~= 'dead' then return 0 end
  bury(id)
elseif not pop_dead(conversation, queue, id) then
  return 0
end
remember(note, conversation)
return 1
