-- A conversation without acquiring anything of it: at most so many of its events and operations.
local conversation, most = destination(ARGV[3]), tonumber(ARGV[4])
local record = conversation_record(conversation)

local function queue_view(queue)
  local list, at = queue_key(conversation, queue), due(conversation, queue)
  local depth, waits = call('LLEN', list), at and math.max(0, at - now, restricted_until(conversation, queue) - now) or false
  local has = call('HMGET', record, queue .. '.until', queue .. '.since', queue .. '.why', queue .. '.why_since')
  local ends, held, since = number(has[1]) or false, number(has[2]) or false, number(has[4]) or false
  if queue == 'inbox' then return { depth, waits, ends, held, has[3], since, false, {}, false } end
  return {
    math.ceil(depth / 2), waits, ends, held, has[3], since, cursor_of(conversation, queue), operations(conversation, queue, most),
    call('HGET', record, queue .. '.anchor'),
  }
end

local events = {}
for _, event in ipairs(call('LRANGE', queue_key(conversation, 'inbox'), 0, most - 1)) do
  events[#events + 1] = queued_event(event)
end
local lives = most > 1 and now < (number(call('HGET', record, 'snapshot_until')) or 0)
return {
  conversation, now, number(call('HGET', record, 'turns')) or 0,
  is_paused(conversation) and number(call('GET', pause_key(conversation))) or false,
  events, running(account_of(conversation)), call('HGET', record, 'note'),
  holding(conversation, 'replies') or false, call('HGET', record, 'acks'),
  lives and call('GET', part_key(conversation, 'snap')),
  queue_view('inbox'), queue_view('outbox'), queue_view('replies'),
}
