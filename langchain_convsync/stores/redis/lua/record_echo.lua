-- Keeps an echo of the reply that is on the wire, and brings its queue up; 0 where none is on the wire.
local conversation, note = follow(ARGV[3]), ARGV[4]
local record = conversation_record(conversation)
local has = call('HMGET', record, 'replies.sent', 'replies.echoes')
if not has[1] then return 0 end
local echoes = has[2] or ''
if not ('\n' .. echoes):find('\n' .. note .. '\n', 1, true) then
  call('HSET', record, 'replies.echoes', echoes .. note .. '\n')
end
call('HDEL', record, 'replies.not_before')
schedule(conversation, 'replies')
return 1
