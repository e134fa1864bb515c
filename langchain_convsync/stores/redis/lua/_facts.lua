-- What stores/facts.py says: comparing what sources tell of the two sides of a message.

local function parsed(facts)
  local known = {}
  for kind, value in facts:gmatch('(%a)=(%x+)') do known[kind] = value end
  return known
end

-- Whether neither tells something else than the other.
local function agree(facts, other)
  local known = parsed(facts)
  for kind, value in pairs(parsed(other)) do
    if known[kind] and known[kind] ~= value then return false end
  end
  return true
end

-- Whether they are of the same receiving side for certain.
local function is_one_side(facts, other)
  local one, two = parsed(facts), parsed(other)
  for _, kind in ipairs({ 'b', 'd', 'n' }) do
    if one[kind] and one[kind] == two[kind] then return agree(facts, other) end
  end
  return false
end

-- All that two that agree tell.
local function joined(facts, other)
  local known, all = parsed(facts), {}
  for kind, value in pairs(parsed(other)) do known[kind] = value end
  for kind, value in pairs(known) do all[#all + 1] = kind .. '=' .. value end
  table.sort(all)
  return table.concat(all, ' ')
end

-- Events under the message that they tell of: KEYS[2] is the shard in which they are compared.
local MOST_TWINS = 16
local function twins_key(source) return KEYS[2] .. 'twins:' .. source end

local function twins_of(source)
  local has, found = read('GET', twins_key(source)), {}
  for event in (type(has) == 'string' and has or ''):gmatch('%S+') do found[#found + 1] = event end
  return found
end

local function list_under(source, event)
  local found = twins_of(source)
  if #found >= MOST_TWINS then return end
  found[#found + 1] = event
  call('SET', twins_key(source), table.concat(found, ' '), 'PX', retention)
end

-- The one event of a source that agrees with these facts; in this conversation or of this account, if
-- one is given.
local function only_one_of(source, facts, conversation, account)
  local found, amount, own = nil, 0, prefix
  for _, other in ipairs(twins_of(source)) do
    prefix = prefix_of(other)
    local has = known_event(other)
    prefix = own
    local is_same = has and agree(has.facts, facts)
    is_same = is_same and (not account or account_of(other) == account)
    if is_same and (not conversation or follow(has.conversation) == conversation) then
      found, amount = other, amount + 1
    end
  end
  if amount == 1 then return found end
end
