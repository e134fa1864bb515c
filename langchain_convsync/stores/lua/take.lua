-- Leases a lane. KEYS: the shard of `cid`, or without one every shard to look at.
local lane, token, lease, cid = unpack(ARGV, 3)
lease = tonumber(lease)
if cid ~= '' then return take(cid, lane, token, lease) end

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

local best, account, longest
for _, shard in ipairs(KEYS) do
  prefix = shard
  local first = call('ZRANGE', accounts_key(lane), 0, 0, 'WITHSCORES')
  if first[2] and (not longest or tonumber(first[2]) < longest) then
    best, account, longest = shard, first[1], tonumber(first[2])
  end
end
if not best or math.floor(longest / 1000) > now then return false end
prefix = best
return take(call('ZRANGE', ready_key(lane, account), 0, 0)[1], lane, token, lease)
