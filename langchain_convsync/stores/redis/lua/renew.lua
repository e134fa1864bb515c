-- Renews a lease; answers its new end, or false when it is lost.
local conversation, queue, token, epoch, seconds = unpack(ARGV, 3)
local ends = held_until(conversation, queue, token, epoch)
if not ends then return false end
ends = math.max(ends, now + seconds)
call('HSET', conversation_record(conversation), queue .. '.until', ends)
schedule(conversation, queue)
return ends
