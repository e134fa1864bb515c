-- The dead letters of one conversation or of all of KEYS: oldest first, at most so many. For each its
-- time, conversation, queue, place, id, body, reason, and the cursor's pos, sent and tries.
local wanted, most = ARGV[3], tonumber(ARGV[4])
local found = {}

local function before(one, other)
  for i = 1, 4 do
    if one[i] ~= other[i] then return one[i] < other[i] end
  end
  return false
end

local function keep_the_oldest()
  table.sort(found, before)
  for i = #found, most + 1, -1 do found[i] = nil end
end

local function add_operations(conversation)
  local list = read('LRANGE', part_key(conversation, 'dead_operations'), 0, WIDTH * most - 1)
  for i = 1, #list - WIDTH + 1, WIDTH do
    found[#found + 1] = {
      number(list[i + 4]) or now, conversation, list[i], i, list[i + 1], list[i + 2], list[i + 3], list[i + 5],
      list[i + 6], list[i + 7],
    }
  end
  keep_the_oldest()
end

local function add_dead(event, has)
  if has then found[#found + 1] = { has[2], has[1], 'inbox', event, event, has[3], has[5], '', '', has[4] } end
end

if wanted ~= '' then
  local target = destination(wanted)
  for _, conversation in ipairs(target == wanted and { wanted } or { wanted, target }) do
    add_operations(conversation)
    each_dead(conversation, add_dead)
  end
  keep_the_oldest()
  return found
end

for _, shard in ipairs(KEYS) do
  prefix = shard
  local index = read('ZRANGE', prefix .. 'dead_operations', 0, most - 1, 'WITHSCORES')
  for i = 1, #index, 2 do
    if #found == most and found[most][1] < tonumber(index[i + 1]) then break end
    add_operations(index[i])
  end
  for _, event in ipairs(read('ZRANGE', prefix .. 'dead', 0, most - 1)) do
    add_dead(event, dead_event(event))
  end
  keep_the_oldest()
end
return found
