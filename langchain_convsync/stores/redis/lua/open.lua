-- The store's secret and format version, created once. Runs without the prelude: it touches KEYS[1] only.
-- ARGV: a secret and a version, for a store that has neither; one that lost one of them has lost its names.
local known = redis.call('HMGET', KEYS[1], 'key', 'format')
if known[1] or known[2] then return known end
redis.call('HSETNX', KEYS[1], 'key', ARGV[1])
redis.call('HSETNX', KEYS[1], 'format', ARGV[2])
return redis.call('HMGET', KEYS[1], 'key', 'format')
