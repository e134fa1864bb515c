-- Lets another key of the same customer lead to their conversation; 0 while a worker is at it.
local name, conversation, token, epoch = unpack(ARGV, 3)
return link(name, follow(conversation), token ~= '' and token, epoch) and 1 or 0
