-- A conversation without acquiring anything of it: at most so many of its events and operations.
local conversation, most = destination(ARGV[3]), tonumber(ARGV[4])
local record = conversation_record(conversation)

local function queue_view(queue)
  local list, at = queue_key(conversation, queue), due(conversation, queue)
  local depth, waits = call('LLEN', list), at and math.max(0, at - now) or false
  local ends = call('HGET', record, queue .. '.until')
  if queue == 'inbox' then return { depth, waits, ends, false, {}, false } end
  local operations, anchor = call('LRANGE', list, 0, 2 * most - 1), call('HGET', record, queue .. '.anchor')
  return { depth / 2, waits, ends, cursor_of(conversation, queue), operations, anchor }
end

local events = {}
for _, event in ipairs(call('LRANGE', queue_key(conversation, 'inbox'), 0, most - 1)) do
  local has = call('HMGET', event_record(event), 'payload', 'at', 'starts', 'errors')
  events[#events + 1] = { event, has[1], has[2], has[3], has[4] }
end
return {
  conversation, now, call('HGET', record, 'turns'),
  is_paused(conversation) and call('GET', pause_key(conversation)),
  events, queue_view('inbox'), queue_view('outbox'), queue_view('replies'),
}
