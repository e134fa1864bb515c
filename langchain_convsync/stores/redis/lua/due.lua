-- Milliseconds until a queue can be acquired; false without work.
local at = due(ARGV[3], ARGV[4])
return at and math.max(0, at - now, restricted_until(ARGV[3], ARGV[4]) - now)
