-- The account that an account key stands for, from now on. KEYS[1] is the shard that knows them all.
local name, told = unpack(ARGV, 3)
local names, accounts = prefix .. 'account_names', prefix .. 'accounts_known'
drop_foreign(names, 'HGET', name)
drop_foreign(accounts, 'HGET', name)
local known = call('HGET', names, name)
if known then return known end
local all, found, amount = call('HGETALL', accounts), nil, 0
for i = 1, #all, 2 do
  if is_one_side(all[i + 1], told) then found, amount = i, amount + 1 end
end
local account, facts = name, told
if amount == 1 then account, facts = all[found], joined(all[found + 1], told) end
call('HSET', names, name, account)
call('HSET', accounts, account, facts)
return account
