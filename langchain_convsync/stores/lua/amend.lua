-- Replaces the payload of a queued event, if it is the expected one; answers the payload that it has
-- then, false unless it is queued.
local eid, before, after = unpack(ARGV, 3)
local has = call('HMGET', event_key(eid), 'state', 'payload')
if has[1] ~= 'queued' then return false end
if has[2] ~= before then return has[2] end
call('HSET', event_key(eid), 'payload', after)
return after
