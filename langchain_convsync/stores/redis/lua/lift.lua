-- Ends an account's restriction, where it is of the kind and tried under the token, if one is named.
local account, kind, token = unpack(ARGV, 3)
local known = restriction(account)
if not known or (kind ~= '' and known[5] ~= kind) or (token ~= '' and known[4] ~= token) then return end
call('HDEL', prefix .. 'restricted', account)
