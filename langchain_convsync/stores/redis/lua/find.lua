-- The one event of an account and a source that agrees with these facts; false without exactly one.
local account, source, facts = unpack(ARGV, 3)
return only_one_of(source, facts, false, account) or false
