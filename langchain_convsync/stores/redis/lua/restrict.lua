-- Lets an account send no replies for a while. What nobody tried for long goes.
local account, kind, length, why = unpack(ARGV, 3)
local all = read('HKEYS', prefix .. 'restricted')
for _, each in ipairs(all) do
  if not restriction(each) then call('HDEL', prefix .. 'restricted', each) end
end
local known, ends = restriction(account), now + tonumber(length)
if known and known[5] ~= kind and known[5] ~= FIRST_CONTACTS then
  local is_tried = known[4] ~= '-'
  if known[2] > (kind == FIRST_CONTACTS and not is_tried and now or ends) then return end
end
restrict(account, ends, known and known[5] == kind and known[3] or now, '-', kind, why)
