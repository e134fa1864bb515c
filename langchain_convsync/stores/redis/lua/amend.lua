-- Replaces the payload of a queued event, if it is the expected one; answers the payload that it has
-- then, false unless it is queued.
local event, before, after, is_due = unpack(ARGV, 3)
local has = call('HMGET', event_record(event), 'state', 'payload', 'conversation')
if has[1] ~= 'queued' then return false end
if has[2] ~= before then return has[2] end
call('HSET', event_record(event), 'payload', after)
if is_due == '1' then
  hold(has[3], 0)
  schedule(has[3], 'inbox')
end
return after
