-- The one event of a source that agrees with these facts; false without exactly one.
local source, facts = unpack(ARGV, 3)
return only_one_of(source, facts) or false
