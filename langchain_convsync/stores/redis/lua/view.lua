-- A conversation without acquiring anything of it: at most so many of its events and operations.
local conversation, most = destination(ARGV[3]), tonumber(ARGV[4])
local record = conversation_record(conversation)

local function queue_view(queue)
  local list, at = queue_key(conversation, queue), due(conversation, queue)
  local depth, waits = call('LLEN', list), at and math.max(0, at - now) or false
  local ends = number(call('HGET', record, queue .. '.until')) or false
  if queue == 'inbox' then return { depth, waits, ends, false, {}, false } end
  return {
    math.ceil(depth / 2), waits, ends, cursor_of(conversation, queue), operations(conversation, queue, most),
    call('HGET', record, queue .. '.anchor'),
  }
end

local events = {}
for _, event in ipairs(call('LRANGE', queue_key(conversation, 'inbox'), 0, most - 1)) do
  events[#events + 1] = queued_event(event)
end
return {
  conversation, now, number(call('HGET', record, 'turns')) or 0,
  is_paused(conversation) and number(call('GET', pause_key(conversation))) or false,
  events, queue_view('inbox'), queue_view('outbox'), queue_view('replies'),
}
