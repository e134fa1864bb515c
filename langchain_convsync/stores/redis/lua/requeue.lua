-- Gives a dead letter back to the workers, once; 0 when it is not one any more. An event becomes a new
-- one, whose key is `note`; an operation gets a new id.
local source, queue, id, note, renewed, body = unpack(ARGV, 3)
if call('EXISTS', event_record(note)) == 1 then return 1 end
local conversation = follow(source)
local record, list = conversation_record(conversation), queue_key(conversation, queue)
body = optional(body)

if queue == 'inbox' then
  local dead = call('HMGET', event_record(id), 'state', 'payload', 'digest')
  if dead[1] ~= 'dead' then return 0 end
  call('HSET', event_record(note), 'state', 'queued', 'conversation', conversation, 'digest', dead[3],
    'payload', body or dead[2], 'by', note, 'at', now, 'starts', 0, 'errors', 0)
  local results = {}
  each_call_field(id, function(field, value, what, name)
    if what == 'result' then results[name] = value end
  end)
  for name, result in pairs(results) do
    local by_field, result_field = call_fields(name)
    local by = call('HGET', event_record(id), by_field) or ''
    call('HSET', event_record(note), 'calls', 1, by_field, by, result_field, result)
  end
  call('RPUSH', list, note)
  call('HSETNX', record, 'debounce', 0)
  call('HSETNX', record, 'max_debounce', 0)
  bury(id)
else
  local had = pop_dead(source, queue, id)
  if not had then return 0 end
  if call('EXISTS', list) == 0 then
    local since = number(call('HGET', record, queue .. '.not_before')) or 0
    call('HSET', record, queue .. '.not_before', math.max(since, now))
  end
  call('RPUSH', list, renewed, body or had)
  note_queued(conversation, queue, renewed)
  remember(note, conversation)
end
count(COUNTERS[queue], 1)
schedule(conversation, queue)
keep_while_busy(conversation)
return 1
