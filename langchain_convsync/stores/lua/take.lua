-- Leases a lane. KEYS: the shard of `cid`, or without one every shard to look at.
local lane, token, lease, cid, at_once = unpack(ARGV, 3)
lease, at_once = tonumber(lease), tonumber(at_once)
if cid ~= '' then return take(cid, lane, token, lease, at_once) end

local token_keys = {}
for i, shard in ipairs(KEYS) do
  prefix = shard
  token_keys[i] = token_key(lane, token)
end
for i, holding in ipairs(call('MGET', unpack(token_keys))) do
  prefix = KEYS[i]
  local has = holding
    and call('HMGET', conversation_key(holding), lane .. '.token', lane .. '.until')
  if has and has[1] == token and has[2] then return taken(holding, lane) end
end

-- The account of the shard that is next, with its place in the ring.
local function next_account()
  local place = 0
  repeat
    local at = call('ZRANGE', accounts_key(lane), place, place, 'WITHSCORES')
    if not at[1] or math.floor(at[2] / 1000) > now then return nil end
    if not is_full(at[1], lane, at_once) then return at[1], tonumber(at[2]) end
    place = place + 1
  until false
end

local best, account, longest
for _, shard in ipairs(KEYS) do
  prefix = shard
  local found, place = next_account()
  if found and (not longest or place < longest) then
    best, account, longest = shard, found, place
  end
end
if not best then return false end
prefix = best
return take(call('ZRANGE', ready_key(lane, account), 0, 0)[1], lane, token, lease, at_once)
