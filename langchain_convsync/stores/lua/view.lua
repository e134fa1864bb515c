-- A conversation without taking anything of it: at most so many of its events and operations.
local cid, most = destination(ARGV[3]), tonumber(ARGV[4])
local conversation = conversation_key(cid)

local function lane_view(lane)
  local queue, at = queue_key(cid, lane), due(cid, lane)
  local depth, waits = call('LLEN', queue), at and math.max(0, at - now) or false
  local ends = call('HGET', conversation, lane .. '.until')
  if lane == 'turn' then return { depth, waits, ends, false, {}, false } end
  local ops, anchor = call('LRANGE', queue, 0, 2 * most - 1), call('HGET', conversation, lane .. '.anchor')
  return { depth / 2, waits, ends, cursor_of(cid, lane), ops, anchor }
end

local events = {}
for _, eid in ipairs(call('LRANGE', queue_key(cid, 'turn'), 0, most - 1)) do
  local has = call('HMGET', event_key(eid), 'payload', 'at', 'starts', 'errors')
  events[#events + 1] = { eid, has[1], has[2], has[3], has[4] }
end
return {
  cid, now, call('HGET', conversation, 'turns'),
  is_paused(cid) and call('GET', pause_key(cid)),
  events, lane_view('turn'), lane_view('write'), lane_view('say'),
}
