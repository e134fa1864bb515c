-- What the operators' scripts share besides. A conversation's list of parked operations holds nine
-- elements for each, see park.lua; the shard's index of parked names it at the time of its oldest one.
local WIDTH = 9
local LANES = { 'turn', 'write', 'say' }

-- Where a name leads to, without keeping it alive.
local function destination(name)
  local target = call('GET', alias_key(name))
  while target do
    name, target = target, call('GET', alias_key(target))
  end
  return name
end

-- Calls `visit` with every dead letter of the conversation, and what it keeps.
local function each_dead(cid, visit)
  local account = account_of(cid)
  for _, eid in ipairs(call('ZRANGE', prefix .. 'dead', 0, -1)) do
    if account_of(eid) == account then
      local has = call('HMGET', event_key(eid), 'cid', 'at', 'payload', 'starts', 'errors')
      if has[1] == cid then visit(eid, has) end
    end
  end
end

-- Takes an operation out of the parked ones; its body, nil where it is not among them.
local function unpark(cid, lane, id)
  local key = part_key(cid, 'parked')
  local list, found = call('LRANGE', key, 0, -1), nil
  for i = 1, #list, WIDTH do
    if not found and list[i] == lane and list[i + 1] == id then found = i end
  end
  if not found then return nil end
  call('DEL', key)
  for i = 1, #list, WIDTH do
    if i ~= found then call('RPUSH', key, unpack(list, i, i + WIDTH - 1)) end
  end
  local oldest = call('LINDEX', key, 4)
  if oldest then
    call('ZADD', prefix .. 'parked', oldest, cid)
  else
    call('ZREM', prefix .. 'parked', cid)
  end
  count('parked', -1)
  return list[found + 2]
end

-- A dead letter is done, with the outcome that it had.
local function bury(eid)
  call('ZREM', prefix .. 'dead', eid)
  call('HSET', event_key(eid), 'state', 'done')
  call('HDEL', event_key(eid), 'payload', 'starts', 'errors')
  call('PEXPIRE', event_key(eid), retention)
end

-- Leaves the record by which a repeated call is recognised.
local function remember(note, cid)
  call('HSET', event_key(note), 'state', 'done', 'cid', cid, 'digest', '', 'at', now)
  call('PEXPIRE', event_key(note), retention)
end
