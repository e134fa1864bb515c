-- Keeps what a tool's call came to, or takes back that it began; 0 when fenced.
local conversation, queue, token, epoch, name, by, event, result = unpack(ARGV, 3)
if not held_until(conversation, queue, token, epoch) then return 0 end
if call('HGET', event_record(event), 'state') ~= 'queued' then return 0 end
local by_field, result_field = call_fields(name)
result = optional(result)
if result then
  call('HSET', event_record(event), 'calls', 1, by_field, by, result_field, result)
else
  call('HDEL', event_record(event), by_field, result_field)
end
return 1
