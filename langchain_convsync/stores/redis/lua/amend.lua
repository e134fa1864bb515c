-- Replaces the payload of a queued event, if it is the expected one; answers the payload that it has
-- then, false unless it is queued.
local event, before, after = unpack(ARGV, 3)
local has = call('HMGET', event_record(event), 'state', 'payload')
if has[1] ~= 'queued' then return false end
if has[2] ~= before then return has[2] end
call('HSET', event_record(event), 'payload', after)
return after
