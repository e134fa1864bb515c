-- Gives a conversation to a human for a while, or back.
local cid, length = follow(ARGV[3]), tonumber(ARGV[4])
if length > 0 then
  call('SET', pause_key(cid), now + length, 'PX', length)
else
  call('DEL', pause_key(cid))
end
