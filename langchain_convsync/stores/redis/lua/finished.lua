-- One step of a walk over all keys: erases what the conversations in the arguments had done by then,
-- and the note that they were forgotten; answers where to go on, the aliases met that lead to one of them, and
-- how much of what was done it erased.
local cursor, by = ARGV[3], tonumber(ARGV[4])
local wanted, aliases, erased = {}, {}, 0
for i = 5, #ARGV do wanted[ARGV[i]] = true end
local events, names, tokens = event_record(''), alias_key(''), prefix .. 'token:'
local met = call('SCAN', cursor, 'MATCH', prefix .. '*', 'COUNT', 1000)
for _, key in ipairs(met[2]) do
  if key:sub(1, #events) == events then
    local event = key:sub(#events + 1)
    local has = known_event(event)
    if has and wanted[has.conversation or ''] and has.state == 'done' and has.at <= by then
      erased = erased + call('DEL', key)
      call('DEL', said_key(event))
    end
  elseif key:sub(1, #names) == names and wanted[read('GET', key) or ''] then
    aliases[#aliases + 1] = key:sub(#names + 1)
  elseif key:sub(1, #tokens) == tokens and wanted[read('GET', key) or ''] then
    call('DEL', key)
  end
end
return { met[1], aliases, erased }
