-- Milliseconds until a message may be sent, of an account whose messages of a kind keep a distance; false
-- when fenced. The arguments end in the kinds and their distances.
local conversation, queue, token, epoch, message = unpack(ARGV, 3)
local FIRST = 8
if not held_until(conversation, queue, token, epoch) then return false end
local key, record = prefix .. 'pace:' .. account_of(conversation), conversation_record(conversation)
local known, longest, soonest, kinds = {}, 0, now, {}
for i = FIRST, #ARGV, 2 do
  local kind, space = ARGV[i], tonumber(ARGV[i + 1])
  local has = call('HMGET', key, kind .. '.next', kind .. '.last', kind .. '.by')
  kinds[#kinds + 1] = { kind, space, number(has[2]) or 0, has[3] }
  longest, soonest = math.max(longest, space), math.max(soonest, number(has[1]) or 0)
end

local at, owner = (call('HGET', record, queue .. '.slot') or ''):match('^(%d+) (.*)$')
at = tonumber(at)
if owner ~= message or now > at + longest then
  at = soonest
  call('HSET', record, queue .. '.slot', ('%.0f '):format(at) .. message)
  for _, each in ipairs(kinds) do call('HSET', key, each[1] .. '.next', at + each[2]) end
end

local free = at
for _, each in ipairs(kinds) do
  if each[4] and each[4] ~= message then free = math.max(free, each[3] + each[2]) end
end
if now >= free then
  for _, each in ipairs(kinds) do call('HSET', key, each[1] .. '.last', now, each[1] .. '.by', message) end
end
if #kinds > 0 then call('PEXPIRE', key, math.max(at, free) - now + 2 * longest + 60000) end
note_time()
return math.max(0, free - now)
