-- Lets another handle of the same customer lead to their conversation; 0 while somebody works on it.
local name, cid, token, epoch = unpack(ARGV, 3)
return link(name, follow(cid), token ~= '' and token, epoch) and 1 or 0
