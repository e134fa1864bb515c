-- Keeps how far one of our own messages got, of the last few; an error, while it has not arrived.
local conversation, message, level, most = follow(ARGV[3]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local record = conversation_record(conversation)
if call('EXISTS', record) == 0 then return end
local kept = {}
for line in (call('HGET', record, 'acks') or ''):gmatch('[^\n]+') do
  local named, known = line:match('^(%S+) (%-?%d+) %-?%d+$')
  known = number(known)
  if named ~= message then
    kept[#kept + 1] = line
  elseif not (level > known or (level < 0 and known >= 0 and known < 2)) then
    return
  end
end
kept[#kept + 1] = ('%s %d %.0f'):format(message, level, now)
call('HSET', record, 'acks', table.concat(kept, '\n', math.max(1, #kept - most + 1)))
