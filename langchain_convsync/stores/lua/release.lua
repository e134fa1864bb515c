-- Gives a lane back; 0 when the lease was lost already. The arguments may end in what is to be noted
-- as confirmed before it.
local cid, lane, token, epoch, delay, failed = unpack(ARGV, 3)
if ARGV[9] then confirm(cid, lane, token, epoch, unpack(ARGV, 9)) end
local conversation = conversation_key(cid)
local has = call('HMGET', conversation,
  lane .. '.token', lane .. '.epoch', lane .. '.until', lane .. '.not_before')
if has[1] ~= token or has[2] ~= epoch then return 0 end
if not has[3] then return 1 end -- given back before
call('HDEL', conversation, lane .. '.until')
call('HSET', conversation, lane .. '.not_before', math.max(tonumber(has[4] or 0), now + delay))
local head = lane == 'turn' and call('LINDEX', queue_key(cid, lane), 0)
if head then
  call('HINCRBY', event_key(head), 'starts', -1)
  call('HINCRBY', event_key(head), 'errors', failed)
end
schedule(cid, lane)
return 1
