-- Milliseconds until a lane can be taken; false without work.
local at = due(ARGV[3], ARGV[4])
return at and math.max(0, at - now)
