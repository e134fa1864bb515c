-- What the operators' scripts share besides. A conversation's list of dead operations holds nine
-- elements for each, see `bury_turn`; the shard's index of dead operations names it at the time of its
-- oldest one.
local WIDTH = 9

-- Where a name leads to, without keeping it alive.
local function destination(name)
  return each_name(name, function() end)
end

-- What is kept of a dead event; nil where that is gone, and it is no dead letter any more.
local function dead_event(event)
  local has = read('HMGET', event_record(event), 'conversation', 'at', 'payload', 'starts', 'errors', 'reason')
  if has[1] then
    local tries = (number(has[4]) or 0) + (number(has[5]) or 0)
    return { has[1], number(has[2]) or now, has[3] or '', tries, has[6] or '' }
  end
  call('ZREM', prefix .. 'dead', event)
end

-- Calls `visit` with every dead letter of the conversation, and what it keeps.
local function each_dead(conversation, visit)
  for _, event in ipairs(read('ZRANGE', prefix .. 'dead', 0, -1)) do
    local has = dead_event(event)
    if has and has[1] == conversation then visit(event, has) end
  end
end

-- Adds the dead operations of a conversation, its oldest or all, as the listings tell a dead letter: its
-- time, conversation, queue, place, id, body, reason, and the cursor's pos, sent and tries.
local function add_operations(found, conversation, most)
  local list = read('LRANGE', part_key(conversation, 'dead_operations'), 0, most and WIDTH * most - 1 or -1)
  for i = 1, #list - WIDTH + 1, WIDTH do
    found[#found + 1] = {
      number(list[i + 4]) or now, conversation, list[i], i, list[i + 1], list[i + 2], list[i + 3], list[i + 5],
      list[i + 6], list[i + 7],
    }
  end
end

-- Adds a dead event, likewise.
local function add_event(found, event, has)
  if has then found[#found + 1] = { has[2], has[1], 'inbox', event, event, has[3], has[5], '', '', has[4] } end
end

-- Takes an operation out of the dead ones; its body, nil where it is not among them.
local function pop_dead(conversation, queue, id)
  local key = part_key(conversation, 'dead_operations')
  local list, found = call('LRANGE', key, 0, -1), nil
  for i = 1, #list, WIDTH do
    if not found and list[i] == queue and list[i + 1] == id then found = i end
  end
  if not found then return nil end
  call('DEL', key)
  for i = 1, #list, WIDTH do
    if i ~= found then call('RPUSH', key, unpack(list, i, i + WIDTH - 1)) end
  end
  local oldest = call('LINDEX', key, 4)
  if oldest then
    call('ZADD', prefix .. 'dead_operations', oldest, conversation)
  else
    call('ZREM', prefix .. 'dead_operations', conversation)
  end
  count('dead_operations', -1)
  return list[found + 2]
end

-- A dead letter is done, with the outcome that it had.
local function bury(event)
  call('ZREM', prefix .. 'dead', event)
  finish(event)
end

-- Leaves the record by which a repeated call is recognised.
local function remember(note, conversation)
  call('HSET', event_record(note), 'state', 'done', 'conversation', conversation, 'digest', '', 'at', now)
  call('PEXPIRE', event_record(note), retention)
end
