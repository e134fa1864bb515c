-- Keeps what was heard of the reply that is on the wire, and brings its queue up; 0 where none is.
local cid, note = follow(ARGV[3]), ARGV[4]
local conversation = conversation_key(cid)
local has = call('HMGET', conversation, 'say.sent', 'say.heard')
if not has[1] then return 0 end
local heard = has[2] or ''
if not ('\n' .. heard):find('\n' .. note .. '\n', 1, true) then
  call('HSET', conversation, 'say.heard', heard .. note .. '\n')
end
call('HDEL', conversation, 'say.not_before')
schedule(cid, 'say')
return 1
