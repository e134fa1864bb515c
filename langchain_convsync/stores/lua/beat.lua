-- Renews a lease; answers its new end, or false when it is lost.
local cid, lane, token, epoch, seconds = unpack(ARGV, 3)
local ends = held_until(cid, lane, token, epoch)
if not ends then return false end
ends = math.max(ends, now + seconds)
call('HSET', conversation_key(cid), lane .. '.until', ends)
schedule(cid, lane)
return ends
