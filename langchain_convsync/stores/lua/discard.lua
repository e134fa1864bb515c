-- Gives up what was set aside, once; 0 when it is not set aside any more.
local cid, lane, id, note = unpack(ARGV, 3)
if call('EXISTS', event_key(note)) == 1 then return 1 end
if lane == 'turn' then
  if call('HGET', event_key(id), 'state') ~= 'dead' then return 0 end
  bury(id)
elseif not unpark(cid, lane, id) then
  return 0
end
remember(note, cid)
return 1
