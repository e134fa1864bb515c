-- Gives a queue back; 0 when the lease was lost already. The arguments may end in what is to be noted
-- as confirmed before it.
local conversation, queue, token, epoch, delay, failed, held, why = unpack(ARGV, 3)
if ARGV[11] then confirm(conversation, queue, token, epoch, unpack(ARGV, 11)) end
local record = conversation_record(conversation)
local has = call('HMGET', record,
  queue .. '.token', queue .. '.epoch', queue .. '.until', queue .. '.not_before')
if has[1] ~= token or has[2] ~= epoch then return 0 end
if not has[3] then return 1 end -- given back before
give_back(conversation, queue)
if queue == 'replies' then tried_out(account_of(conversation), token) end
waits(conversation, queue, optional(why))
call('HSET', record, queue .. '.not_before', math.max(number(has[4]) or 0, now + delay))
local head = queue == 'inbox' and call('LINDEX', queue_key(conversation, queue), 0)
if head then
  call('HINCRBY', event_record(head), 'starts', -1)
  call('HINCRBY', event_record(head), 'errors', failed)
  if held == '' then
    hold(conversation)
  elseif call('HGET', record, 'inbox.held') ~= '0' then
    hold(conversation, held)
  end
end
schedule(conversation, queue)
return 1
