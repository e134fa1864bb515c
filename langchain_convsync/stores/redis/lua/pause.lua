-- Gives a conversation to a human for a while, or back.
local conversation, length = follow(ARGV[3]), tonumber(ARGV[4])
note_time()
if length > 0 then
  call('SET', pause_key(conversation), now + length, 'PX', length)
else
  call('DEL', pause_key(conversation))
end
