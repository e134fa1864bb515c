-- The dead letters of one conversation or of all of KEYS: oldest first, at most so many.
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

if wanted ~= '' then
  local target = destination(wanted)
  for _, conversation in ipairs(target == wanted and { wanted } or { wanted, target }) do
    add_operations(found, conversation, most)
    each_dead(conversation, function(event, has) add_event(found, event, has) end)
  end
  keep_the_oldest()
  return found
end

for _, shard in ipairs(KEYS) do
  prefix = shard
  local index = read('ZRANGE', prefix .. 'dead_operations', 0, most - 1, 'WITHSCORES')
  for i = 1, #index, 2 do
    if #found == most and found[most][1] < tonumber(index[i + 1]) then break end
    add_operations(found, index[i], most)
    keep_the_oldest()
  end
  for _, event in ipairs(read('ZRANGE', prefix .. 'dead', 0, most - 1)) do
    add_event(found, event, dead_event(event))
  end
  keep_the_oldest()
end
return found
