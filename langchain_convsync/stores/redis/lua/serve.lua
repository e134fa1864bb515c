-- The API servers whose conversations the store holds: fields of its record, lost together with the secret
-- that their names are made with.
local server, adopt = unpack(ARGV, 3)
local known, has = {}, call('HGETALL', store)
for i = 1, #has, 2 do known[#known + 1] = has[i]:match('^server (.+)$') end
if server ~= '' and (adopt ~= 'first' or #known == 0) then
  if call('HSET', store, 'server ' .. server, '') == 1 then known[#known + 1] = server end
end
if adopt ~= 'only' then return known end
for _, each in ipairs(known) do
  if each ~= server then call('HDEL', store, 'server ' .. each) end
end
return server ~= '' and { server } or {}
