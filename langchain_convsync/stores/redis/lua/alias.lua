-- Lets two names of a customer lead to one conversation, and answers it; false while they cannot.
local name, conversation, token, epoch = unpack(ARGV, 3)
local target, is_one = unite({ conversation, name }, token ~= '' and token, epoch)
return is_one and target
