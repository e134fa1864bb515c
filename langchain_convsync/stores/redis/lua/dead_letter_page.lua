-- Dead letters of one shard, behind a place in one of its indexes: about so many, of one account or of all,
-- as `dead_letters` tells them; and the place of the last one, unless none follows.
local account, most, index, score, member = unpack(ARGV, 3)
local CHUNK = 1000
local found, place = {}, false
most = tonumber(most)

-- Adds what stands behind the place in an index; whether that is all of it.
local function add_all(add)
  local offset, met = 0, {}
  repeat
    met = read('ZRANGE', prefix .. index, score, '+inf', 'BYSCORE', 'LIMIT', offset, CHUNK, 'WITHSCORES')
    for i = 1, #met, 2 do
      local is_behind = tonumber(met[i + 1]) > tonumber(score) or met[i] > member
      if is_behind and (account == '' or account_of(met[i]) == account) then
        if #found >= most then return false end
        add(found, met[i])
        place = { index, met[i + 1], met[i] }
      end
    end
    offset = offset + CHUNK
  until #met < 2 * CHUNK
  return true
end

if index == 'dead_operations' then
  if not add_all(add_operations) then return { found, place } end
  index, score, member = 'dead', '0', ''
end
local function add(into, event) add_event(into, event, dead_event(event)) end
return { found, not add_all(add) and place }
