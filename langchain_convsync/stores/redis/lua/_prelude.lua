-- What every operation shares: the keys, the clock, and the three queues of a conversation.
--
-- KEYS are the prefixes of shards, "cs:{s07}:", or "cs:<namespace>:{s07}:". Every key that a script touches begins with one of
-- them, so it lies in the Redis Cluster slot that the prefix names.
-- The last of KEYS is the store's record, which is looked at before anything else; on a cluster, the
-- copy of it in the shard's slot.
-- ARGV[1] is a test's clock in milliseconds, empty for the server's own. ARGV[2] is the retention in
-- milliseconds. An operation's own arguments follow. The last of ARGV is the SHA-1 of the secret that
-- all names are made with: in a store that has another one, or none, nothing is done.
--
-- Times and counts stay below 2^53, where Lua's numbers are exact integers. User text is passed on as
-- it came. An optional text travels as '' or '=' .. text. Scripts check before their first write,
-- because nothing is rolled back.

local call = redis.call
local store, opened = table.remove(KEYS), table.remove(ARGV)
local known = redis.pcall('HMGET', store, 'key', 'seen', 'ahead')
local sha1 = redis.sha1hex or function() return opened end -- fakeredis has none, and is emptied by its test
if known.err or not known[1] or sha1(known[1]) ~= opened then
  return redis.error_reply('ANOTHERSTORE than the one that was opened')
end
local prefix = KEYS[1]
local retention = tonumber(ARGV[2])

-- Store time: the server's clock, and how far that fell behind what was seen before. It may be set back, or
-- a replica with another clock becomes the primary; what was to wait for a second must not wait for an hour.
local SLACK = 1000 -- as exact as it is known: a note of the time each second is enough
local seen = tonumber(known[2]) or 0
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
now = now + (tonumber(known[3]) or 0)
if now < seen - SLACK then
  call('HINCRBY', store, 'ahead', seen - now)
  now = seen
end

-- To be called where a time is stored that something waits for.
local function note_time()
  if now > seen + SLACK then
    seen = now
    call('HSET', store, 'seen', seen)
  end
end

-- Keys -------------------------------------------------------------------------------------------

local QUEUES = { 'inbox', 'outbox', 'replies' }
local COUNTERS = { inbox = 'queued', outbox = 'writes', replies = 'replies' }

-- The prefix of the shard that a key lies in.
local function prefix_of(key) return (prefix:gsub('{s%d%d}', '{s' .. key:sub(1, 2) .. '}', 1)) end

local function event_record(event) return prefix .. 'ev:' .. event end
-- What a turn said to an event, for as long as words are kept.
local function said_key(event) return prefix .. 'said:' .. event end
-- Of a tool's call, in the record of its turn's head event: who began it, and what it came to.
local function call_fields(name) return 'call.by:' .. name, 'call.result:' .. name end
local function alias_key(conversation) return prefix .. 'alias:' .. conversation end
local function pause_key(conversation) return prefix .. 'pause:' .. conversation end
local function conversation_record(conversation) return prefix .. 'c:' .. conversation end
local function part_key(conversation, part) return prefix .. 'c:' .. conversation .. ':' .. part end
local function queue_key(conversation, queue) return part_key(conversation, queue) end
-- What a token holds: on one server in one place for all shards, so that who names no conversation looks once.
local one_place = not store:find('{', 1, true) and store:sub(1, -5) .. '{s00}:'
local function token_key(queue, token) return (one_place or prefix) .. 'token:' .. queue .. ':' .. token end
local function ready_key(queue, account) return prefix .. 'ready:' .. queue .. ':' .. account end
-- Of what is ready, replies to those who have had a message before: all that a cap of new chats lets go.
local function known_key(account) return prefix .. 'known:' .. account end
local function running_key(account) return prefix .. 'running:' .. account end
local function accounts_key(queue) return prefix .. 'accounts:' .. queue end
local function unsent_key(account) return prefix .. 'unsent:' .. account end
local function places_key(queue) return prefix .. 'places:' .. queue end
local function account_of(conversation) return conversation:sub(1, 15) end
local function is_claim(conversation) return conversation:sub(4, 15) == '000000000000' end

-- When a reply was queued, however often it is tried since: until it leaves its queue.
local function note_queued(conversation, queue, operation)
  if queue ~= 'replies' then return end
  call('ZADD', unsent_key(account_of(conversation)), now, conversation .. ' ' .. operation)
end
local function note_left(conversation, queue, operation)
  if queue ~= 'replies' or not operation then return end
  call('ZREM', unsent_key(account_of(conversation)), conversation .. ' ' .. operation)
end

local function count(name, change) call('HINCRBY', prefix .. 'count', name, change) end

local function optional(text)
  if text ~= '' then return text:sub(2) end
end

-- What is stored may be damaged: by an eviction, another program, a restored file. ------------------

-- A number as it was stored, which '1e999', 'nan' and words are not.
local function number(stored)
  local value = tonumber(stored)
  if value and value > -2 ^ 53 and value < 2 ^ 53 then return value end
end

-- The answer of a reading command; an empty one of a key that is of another type.
local function read(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then return {}, answer.err end
  return answer
end

-- Hints ------------------------------------------------------------------------------------------

-- Whose change it is, where that process knows of it already; and whether it is not told yet.
local origin, is_muted = '', false
local SOON = 5000 -- milliseconds; what comes later is looked for
local APART = 250 -- milliseconds that writes and replies are left to the process that left them: it delivers them
local channel = prefix:match('^(.-){') .. 'hints:' .. opened

-- Tells listening processes when a queue can be acquired, or that a turn left nothing in its inbox. It may
-- be refused (an ACL without `publish`) or get lost: nobody relies on it.
local function hint(conversation, queue, at)
  if at and queue ~= 'inbox' then at = at + APART end
  if is_muted or (at and at - now > SOON) or not (at or queue == 'inbox') then return end
  local waits = at and string.format('%.0f', math.max(0, at - now)) or '-'
  redis.pcall('PUBLISH', channel, table.concat({ queue, conversation, waits, origin }, ' '))
end

-- Events that are done ----------------------------------------------------------------------------

-- What names a call or a text well enough, beside the event's key.
local function ending(text) return (text or ''):sub(-12) end
local function ended_by(epoch, token) return epoch .. ' ' .. ending(token) end

-- Hexadecimal digits in half as many bytes, eight at a time; what else there is stays as it is.
local EIGHT = ('[0-9a-f]'):rep(8)
local function packed(digits)
  return (digits:gsub(EIGHT, function(eight) return struct.pack('>I4', tonumber(eight, 16)) end))
end
local function unpacked(bytes)
  return (bytes:gsub('....', function(four) return ('%08x'):format((struct.unpack('>I4', four))) end))
end

-- Facts packed, of each its kind and eight bytes; nil where they are of another form.
local FACT = '(%l)=(' .. EIGHT .. EIGHT .. ') '
local function packed_facts(facts)
  local all = (facts .. ' '):gsub(FACT, function(kind, hash) return kind .. packed(hash) end)
  return #all * 19 == (#facts + 1) * 9 and all or nil
end
local function unpacked_facts(all)
  local facts = all:gsub('(.)(........)', function(kind, hash) return kind .. '=' .. unpacked(hash) .. ' ' end)
  return facts:sub(1, -2)
end

-- What is known of an event; nil where nothing is.
local function known_event(event)
  local record = event_record(event)
  local has = read('HMGET', record, 'state', 'conversation', 'facts', 'digest', 'fact', 'by', 'at', 'ended_by')
  if has[1] then
    return {
      state = has[1], conversation = has[2], facts = has[3] or '', digest = ending(has[4]), fact = has[5],
      by = ending(has[6]), at = number(has[7]) or 0, ended_by = has[8],
    }
  end
  has = read('HMGET', record, 'c', 'facts', 'd', 'f', 'b', 'a', 'e', 'fact', 'k')
  if not has[1] then return nil end
  local account, name = account_of(event) .. '.', #has[1] == 12 and unpacked(has[1]) or has[1]
  local facts = has[2] or has[9] and unpacked_facts(has[9]) or ''
  return {
    state = 'done', conversation = name ~= '' and (#name < #event and account .. name or name) or nil,
    facts = facts, digest = has[3] or ending(facts),
    fact = has[4] and has[4]:gsub('[\1\2]', { ['\1'] = account, ['\2'] = event }) or has[8], by = has[5] or ending(has[7]),
    at = 1000 * (number(has[6]) or 0), ended_by = has[7],
  }
end

-- Keeps what is known of an event's both sides.
local function keep_facts(record, state, facts)
  local packed = state == 'done' and packed_facts(facts)
  if packed then
    call('HSET', record, 'k', packed)
  elseif facts ~= '' then
    call('HSET', record, 'facts', facts)
  end
end

-- Packs what is kept of an event that is done: few and short values, so that Redis holds them in one piece. 'c'
-- is what follows the account in its conversation's key; in its fact, 'f', \1 stands for that account and \2 for
-- the event. The digest, 'd', is mostly that of the words, with which its facts end.
local function finish(event, fact, by)
  local record, account = event_record(event), account_of(event) .. '.'
  local has = known_event(event) or { digest = '', facts = '', by = '', at = now } -- its record is gone
  local conversation = has.conversation or ''
  if conversation:sub(1, #account) == account then conversation = conversation:sub(#account + 1) end
  fact, by = fact or has.fact, by or has.ended_by or ''
  call('DEL', record)
  local short = packed(conversation)
  if #conversation == 24 and #short == 12 then conversation = short end
  call('HSET', record, 'c', conversation, 'a', math.floor(has.at / 1000), 'e', by)
  if has.digest ~= ending(has.facts) then call('HSET', record, 'd', has.digest) end
  if has.by ~= ending(by) then call('HSET', record, 'b', has.by) end
  if fact then
    local mark, what = '\2', event
    if not fact:find(event, 1, true) then mark, what = '\1', account end
    local place = not fact:find('[\1\2]') and fact:find(what, 1, true)
    if place then fact = fact:sub(1, place - 1) .. mark .. fact:sub(place + #what) end
    call('HSET', record, place and 'f' or 'fact', fact)
  end
  keep_facts(record, 'done', has.facts)
  call('PEXPIRE', record, retention)
end

-- Keeps the words of a turn for a while, and tells them while they are kept.
local function keep_said(event, words, kept)
  call('SET', said_key(event), string.format('%.0f ', now + kept) .. words, 'PX', kept)
end
local function said_of(event)
  local kept = read('GET', said_key(event))
  local place = type(kept) == 'string' and kept:find(' ', 1, true)
  if place and now < (number(kept:sub(1, place - 1)) or 0) then return kept:sub(place + 1) end
end

-- Whether a reply was sent in a conversation before.
local function has_sent(conversation)
  return call('HGET', conversation_record(conversation), 'replies.anchor') ~= false
end

-- Due work ---------------------------------------------------------------------------------------

-- When an event was accepted; now, where its record is gone.
local function accepted_at(event) return number(call('HGET', event_record(event), 'at')) or now end

-- When a queue can be acquired: after its lease, its delay and the debounce window. Nil without work.
-- Besides, the end of its lease. An event whose record is gone is due now. Of an inbox that is held, the
-- delay is that of its first events; those behind them have their window only.
local function due(conversation, queue)
  local list = queue_key(conversation, queue)
  if call('EXISTS', list) == 0 then return nil end
  local has = call('HMGET', conversation_record(conversation),
    queue .. '.until', queue .. '.not_before', 'debounce', 'max_debounce', 'inbox.held')
  local ends = number(has[1])
  local at = math.max(ends or 0, number(has[2]) or 0)
  if queue ~= 'inbox' then return at, ends end
  local held = number(has[5])
  local first = call('LINDEX', list, held or 0)
  if not first then return at, ends end
  if held then at = ends or 0 end
  local last = accepted_at(call('LINDEX', list, -1))
  return math.max(at, math.min(accepted_at(first) + (number(has[4]) or 0), last + (number(has[3]) or 0))), ends
end

-- Holds so many events at the head of an inbox; 0 ends that for good, until it is acquired.
local function hold(conversation, held)
  local record = conversation_record(conversation)
  if held then call('HSET', record, 'inbox.held', held) else call('HDEL', record, 'inbox.held') end
  if held and tonumber(held) > 0 then
    call('ZADD', prefix .. 'held', 0, conversation)
  else
    call('ZREM', prefix .. 'held', conversation)
  end
end

-- Brings the indexes of due work and of running turns up to date. An account's place in the ring is
-- the microsecond of its last acquire; it comes up at that or at its oldest due work, whichever is later.
local function schedule(conversation, queue)
  note_time()
  if is_claim(conversation) then return end
  local account = account_of(conversation)
  local at, ends = due(conversation, queue)
  if queue == 'inbox' then
    local running = running_key(account)
    if ends then call('ZADD', running, ends, conversation) else call('ZREM', running, conversation) end
  end
  local ready = ready_key(queue, account)
  if at then call('ZADD', ready, at, conversation) else call('ZREM', ready, conversation) end
  if queue == 'replies' then
    local known = at and has_sent(conversation)
    if known then call('ZADD', known_key(account), at, conversation) else call('ZREM', known_key(account), conversation) end
  end
  hint(conversation, queue, at)
  local head = call('ZRANGE', ready, 0, 0, 'WITHSCORES')
  if head[2] then
    local place = number(call('HGET', places_key(queue), account)) or 0
    call('ZADD', accounts_key(queue), math.max(place, head[2] * 1000), account)
  else
    call('ZREM', accounts_key(queue), account)
    call('HDEL', places_key(queue), account)
  end
end

-- To be called when work was added to or acquired from a conversation: only an idle one expires.
local function keep_while_busy(conversation)
  local busy = call('EXISTS', queue_key(conversation, 'inbox'), queue_key(conversation, 'outbox'), queue_key(conversation, 'replies'))
  if busy > 0 then
    call('PERSIST', conversation_record(conversation))
  else
    call('PEXPIRE', conversation_record(conversation), retention)
  end
end

-- Names ------------------------------------------------------------------------------------------

-- Calls `visit` with each name on the way to the conversation that a name leads to, and answers that. A
-- name that leads to no key of its shard, or in a circle, leads nowhere.
local function each_name(name, visit)
  local met = {}
  while true do
    met[name] = true
    local target = call('GET', alias_key(name))
    if not target or met[target] or #target ~= #name or target:sub(1, 2) ~= name:sub(1, 2) then
      return name
    end
    visit(name)
    name = target
  end
end

-- The conversation that a name leads to; its names live on.
local function follow(name)
  return each_name(name, function(met) call('PEXPIRE', alias_key(met), retention) end)
end

-- Leases -----------------------------------------------------------------------------------------

-- The end of the lease, while no other worker acquired the queue and it was not released.
local function held_until(conversation, queue, token, epoch)
  local has = call('HMGET', conversation_record(conversation),
    queue .. '.token', queue .. '.epoch', queue .. '.until')
  if has[1] == token and has[2] == epoch and has[3] then return number(has[3]) end
end

-- Ends a queue's lease, if it has one.
local function give_back(conversation, queue)
  local record = conversation_record(conversation)
  local token = call('HGET', record, queue .. '.token')
  if token then call('DEL', token_key(queue, token)) end
  call('HDEL', record, queue .. '.until', queue .. '.since')
end

-- Notes why a queue's work waits, unless that is known; nothing where nothing holds it up.
local function waits(conversation, queue, why)
  local record, named, since = conversation_record(conversation), queue .. '.why', queue .. '.why_since'
  if not why then
    call('HDEL', record, named, since)
  elseif call('HGET', record, named) ~= why then
    call('HSET', record, named, why, since, now)
  end
end

-- How many turns of the account run now.
local function running(account)
  local turns = read('ZCOUNT', running_key(account), '(' .. now, '+inf')
  return type(turns) == 'number' and turns or 0
end

-- Why an account sends no replies: its key, until when, since when, the token by which it is tried
-- whether that is over ('-' where it is not), the kind, and why. Nil where it does. What has not been tried
-- for a day is forgotten.
local RESTRICTION_KEPT = 86400000
local restrictions = {} -- as this script has read them, or written
local function restriction(account)
  local known = restrictions[prefix .. account]
  if known == nil then
    local stored = read('HGET', prefix .. 'restricted', account)
    local ends, since, by, kind, why = (type(stored) == 'string' and stored or ''):match('^(%d+) (%d+) (%S+) (%S+) (.*)$')
    known = ends and { account, tonumber(ends), tonumber(since), by, kind, why } or false
    restrictions[prefix .. account] = known
  end
  return known and known[2] + RESTRICTION_KEPT > now and known or nil
end

local function restrict(account, ends, since, by, kind, why)
  note_time()
  local stored = table.concat({ ('%.0f %.0f'):format(ends, since), by, kind, why }, ' ')
  call('HSET', prefix .. 'restricted', account, stored)
  restrictions[prefix .. account] = { account, ends, since, by, kind, why }
end

-- The kind of restriction that holds first contacts alone: reply queues that have sent nothing yet.
local FIRST_CONTACTS = 'capping'
-- The kind that holds replies of an account now.
local function held_by(account)
  local found = restriction(account)
  return found and now < found[2] and found[5]
end

-- What restricts a queue; nil where nothing does.
local function holding(conversation, queue)
  local found = queue == 'replies' and restriction(account_of(conversation))
  if not found then return nil end
  if found[5] == FIRST_CONTACTS and has_sent(conversation) then return nil end
  return found
end

local function restricted_until(conversation, queue)
  local found = holding(conversation, queue)
  return found and found[2] or 0
end

-- To be called where a queue is acquired, and where a reply queue is given back.
local function try_out(conversation, queue, token, lease)
  local found = holding(conversation, queue)
  if found then restrict(found[1], now + lease, found[3], token, found[5], found[6]) end
end
local function tried_out(account, token)
  local found = restriction(account)
  if found and found[4] == token then restrict(account, math.min(found[2], now), found[3], '-', found[5], found[6]) end
end

-- Whether a message may go now: of an account that is restricted, the one that shows if that is over.
local function may_send(conversation, queue, token)
  local found = holding(conversation, queue)
  return not found or now >= found[2] or found[4] == token
end

-- Whether so many do already; 0 stands for any number. Of replies, whether the account sends none: one
-- that is capped sends some.
local function is_full(account, queue, account_concurrency)
  if queue == 'replies' then
    local kind = held_by(account)
    return kind and kind ~= FIRST_CONTACTS
  end
  return queue == 'inbox' and account_concurrency > 0 and running(account) >= account_concurrency
end

local function is_paused(conversation)
  return now < (number(call('GET', pause_key(conversation))) or 0)
end

-- Puts the events that wait under a name among those of a conversation, by their arrival; behind what
-- a turn has acquired or holds.
local function bring_along(name, target)
  local own, there, list = conversation_record(name), conversation_record(target), queue_key(target, 'inbox')
  local windows = call('HMGET', own, 'debounce', 'max_debounce', 'inbox.held')
  local has = call('HMGET', there, 'inbox.until', 'inbox.held')
  local waiting, place = {}, 1
  if not windows[3] and not has[2] and now >= (number(has[1]) or 0) then
    waiting = call('LRANGE', list, 0, -1)
    call('DEL', list)
  end
  for _, event in ipairs(call('LRANGE', queue_key(name, 'inbox'), 0, -1)) do
    local at = accepted_at(event)
    while waiting[place] and accepted_at(waiting[place]) <= at do
      call('RPUSH', list, waiting[place])
      place = place + 1
    end
    call('HSET', event_record(event), 'conversation', target)
    call('RPUSH', list, event)
    call('HSETNX', there, 'debounce', windows[1] or 0)
    call('HSETNX', there, 'max_debounce', windows[2] or 0)
  end
  for left = place, #waiting do call('RPUSH', list, waiting[left]) end
  call('DEL', queue_key(name, 'inbox'))
  give_back(name, 'inbox')
  hold(name)
  for _, conversation in ipairs({ target, name }) do -- in this order, so that their account keeps its place
    schedule(conversation, 'inbox')
    keep_while_busy(conversation)
  end
end

-- Whether a conversation has what can go nowhere else: operations, or a turn that is not the caller's.
local function is_bound(name, token, epoch)
  if call('EXISTS', queue_key(name, 'outbox'), queue_key(name, 'replies')) > 0 then return true end
  if token and held_until(name, 'inbox', token, epoch) then return false end
  return now < (number(call('HGET', conversation_record(name), 'inbox.until')) or 0)
end

-- Lets a name lead to a conversation; neither is an alias itself, hence never in a circle. Its events,
-- a human's takeover and its tenant go along. Whether it leads there now: not where it is bound, or
-- another tenant's.
local function link(name, target, token, epoch)
  if is_bound(name, token, epoch) then return false end
  local tenant = call('HGET', conversation_record(name), 'tenant')
  local other = call('HGET', conversation_record(target), 'tenant')
  if tenant and other and tenant ~= other then return false end
  if token and held_until(name, 'inbox', token, epoch) then
    call('HINCRBY', event_record(call('LINDEX', queue_key(name, 'inbox'), 0)), 'starts', -1)
  end
  if call('EXISTS', queue_key(name, 'inbox')) == 1 then bring_along(name, target) end
  if tenant and call('EXISTS', conversation_record(target)) == 1 then
    call('HSET', conversation_record(target), 'tenant', tenant)
  end
  call('SET', alias_key(name), target, 'PX', retention)
  local own = number(call('GET', pause_key(name))) or 0
  if own > math.max(now, number(call('GET', pause_key(target))) or 0) then
    call('SET', pause_key(target), own, 'PX', own - now)
  end
  call('DEL', pause_key(name))
  return true
end

-- The conversation that names of one customer, the surest first, lead to from now on, and whether all of
-- them do: the one that is bound, else the one that had a turn, else that of the surest name.
local function unite(names, token, epoch)
  local roots, met = {}, {}
  for _, name in ipairs(names) do
    local root = follow(name)
    if not met[root] then roots[#roots + 1] = root end
    met[root] = true
  end
  if #roots == 1 then return roots[1], true end
  local target, best = nil, -1
  for _, root in ipairs(roots) do
    local rank = is_bound(root, token, epoch) and 2 or (number(call('HGET', conversation_record(root), 'turns')) or 0) > 0 and 1 or 0
    if rank > best then target, best = root, rank end
  end
  local is_one = true
  for _, root in ipairs(roots) do
    if root ~= target and not link(root, target, token, epoch) then is_one = false end
  end
  return target, is_one
end

local function cursor_of(conversation, queue)
  local has = call('HMGET', conversation_record(conversation),
    queue .. '.operation', queue .. '.pos', queue .. '.sent', queue .. '.tries', queue .. '.note',
    queue .. '.echoes')
  if has[1] and not (number(has[2]) and number(has[3] or 0) and number(has[4])) then
    error('the cursor of a queue is damaged') -- to be mended
  end
  return has[1] and has
end

-- An event that waits, and whether its record is whole.
local function queued_event(event)
  local has = call('HMGET', event_record(event), 'payload', 'at', 'starts', 'errors', 'state', 'apart')
  return {
    event, has[1] or '', number(has[2]) or now, number(has[3]) or 0, number(has[4]) or 0, has[6] or '',
  }, has[5] == 'queued'
end

-- At most so many operations as a list holds them, an id and a body for each.
local function operations(conversation, queue, most)
  local list = call('LRANGE', queue_key(conversation, queue), 0, most and 2 * most - 1 or -1)
  if #list % 2 == 1 then list[#list + 1] = '' end
  return list
end

-- Makes the operation at the head of a queue a dead letter, and the rest of its turn with it. The list
-- of dead operations holds nine elements for each: queue, id, body, reason, time, and the cursor's pos,
-- sent, tries and note as they were ('' where they were not).
local function bury_turn(conversation, queue, turn, reason, cursor)
  local list = queue_key(conversation, queue)
  local head = call('LRANGE', list, 0, 1)
  while head[1] and head[1]:sub(1, #turn) == turn do
    call('RPUSH', part_key(conversation, 'dead_operations'), queue, head[1], head[2] or '', reason, now,
      cursor[2] or '', cursor[3] or '', cursor[4] or '', cursor[5] or '')
    count('dead_operations', 1)
    note_left(conversation, queue, head[1])
    call('LTRIM', list, 2, -1)
    count(COUNTERS[queue], -1)
    cursor, head = {}, call('LRANGE', list, 0, 1)
  end
  call('HDEL', conversation_record(conversation), queue .. '.operation', queue .. '.pos', queue .. '.sent',
    queue .. '.tries', queue .. '.note', queue .. '.echoes')
  call('ZADD', prefix .. 'dead_operations', 'NX', now, conversation)
end

-- Calls `visit` with each field of an event's record that is about a tool's call.
local function each_call_field(event, visit)
  local has = call('HGETALL', event_record(event))
  for i = 1, #has, 2 do
    local what, name = has[i]:match('^call%.(%l+):(.*)$')
    if what then visit(has[i], has[i + 1], what, name) end
  end
end

-- Deletes a key that is of another type than the command reads: nothing in it is ours.
local function drop_foreign(key, ...)
  local command = { ... }
  table.insert(command, 2, key)
  local _, wrong = read(unpack(command))
  if wrong then call('DEL', key) end
end

-- An event whose record is gone waits on, with nothing in it, for its turn to make it a dead letter;
-- what is done does not wait, and nothing waits twice.
local function mend_inbox(conversation)
  local list, seen = queue_key(conversation, 'inbox'), {}
  drop_foreign(list, 'LLEN')
  local waiting = call('LRANGE', list, 0, -1)
  call('DEL', list)
  for _, event in ipairs(waiting) do
    local record = event_record(event)
    drop_foreign(record, 'HGET', 'state')
    local queued = queued_event(event)
    local known = known_event(event)
    local state = known and known.state
    if seen[event] or state == 'done' or state == 'dead' then
      count('queued', -1)
    else
      seen[event] = true
      call('HSET', record, 'state', 'queued', 'conversation', conversation, 'payload', queued[2],
        'at', queued[3], 'starts', queued[4], 'errors', queued[5])
      call('HSETNX', record, 'digest', '')
      call('HSETNX', record, 'by', '')
      call('PERSIST', record)
      call('RPUSH', list, event)
    end
  end
end

-- Makes a conversation one that every operation can work on, whatever stands in its keys and in those of
-- its account and shard. What cannot be read of it is lost; a turn of which it is unknown how far it was delivered becomes dead letters.
local function mend(conversation)
  local record = conversation_record(conversation)
  drop_foreign(record, 'HGET', 'turns')
  drop_foreign(part_key(conversation, 'dead_operations'), 'LLEN')
  for _, key in ipairs({ alias_key(conversation), pause_key(conversation), part_key(conversation, 'snap') }) do
    drop_foreign(key, 'GET')
  end
  for _, key in ipairs({ 'dead', 'dead_operations', 'held' }) do drop_foreign(prefix .. key, 'ZCARD') end
  drop_foreign(prefix .. 'count', 'HGET', 'queued')
  drop_foreign(running_key(account_of(conversation)), 'ZCARD')
  for _, queue in ipairs(QUEUES) do
    drop_foreign(accounts_key(queue), 'ZCARD')
    drop_foreign(places_key(queue), 'HGET', 'account')
    drop_foreign(ready_key(queue, account_of(conversation)), 'ZCARD')
  end
  drop_foreign(unsent_key(account_of(conversation)), 'ZCARD')
  drop_foreign(known_key(account_of(conversation)), 'ZCARD')
  drop_foreign(prefix .. 'restricted', 'HGET', '')
  drop_foreign(prefix .. 'pace:' .. account_of(conversation), 'HGET', '')
  mend_inbox(conversation)
  local numbers = { 'turns', 'debounce', 'max_debounce', 'snapshot_until', 'inbox.held' }
  for _, queue in ipairs(QUEUES) do
    for _, name in ipairs({ '.epoch', '.until', '.since', '.not_before', '.why_since' }) do numbers[#numbers + 1] = queue .. name end
    drop_foreign(queue_key(conversation, queue), 'LLEN')
    if queue ~= 'inbox' and not pcall(cursor_of, conversation, queue) then
      local head = call('LINDEX', queue_key(conversation, queue), 0) or ''
      bury_turn(conversation, queue, head:match('^(.*/)') or head, 'how far it was delivered cannot be read', {})
    end
  end
  for _, name in ipairs(numbers) do
    local stored = call('HGET', record, name)
    if stored and not (number(stored) and stored:match('^%-?%d+$')) then call('HDEL', record, name) end
  end
  for _, queue in ipairs(QUEUES) do schedule(conversation, queue) end
  keep_while_busy(conversation)
end

local function inbox(conversation, is_mended)
  local events = {}
  for i, event in ipairs(call('LRANGE', queue_key(conversation, 'inbox'), 0, -1)) do
    local queued, is_whole = queued_event(event)
    if not is_whole then
      if is_mended then error('an inbox cannot be mended') end
      mend(conversation)
      return inbox(conversation, true)
    end
    events[i] = queued
  end
  return events
end

local function acquired(conversation, queue)
  local on_trial = queue == 'replies' and restriction(account_of(conversation))
  local work = queue == 'inbox' and 'outbox' or queue
  local has = call('HMGET', conversation_record(conversation), queue .. '.token', queue .. '.epoch',
    queue .. '.until', 'turns', work .. '.anchor', 'snapshot_until', 'tenant', 'note')
  on_trial = on_trial and on_trial[4] == has[1] and on_trial or false
  local events, snapshot = {}, false
  if queue == 'inbox' then
    events = inbox(conversation)
    snapshot = now < (number(has[6]) or 0) and call('GET', part_key(conversation, 'snap'))
  end
  return {
    conversation, has[1], has[2], number(has[3]) or 0, now, number(has[4]) or 0, events,
    operations(conversation, work), cursor_of(conversation, work), has[5], snapshot,
    queue == 'inbox' and is_paused(conversation) and 1 or 0, has[7],
    queue == 'inbox' and has[8], on_trial,
  }
end

-- Leases the queue if it is due, or again to the token that holds it; false if it is neither.
local function acquire(conversation, queue, token, lease, account_concurrency)
  local record = conversation_record(conversation)
  local has = call('HMGET', record, queue .. '.token', queue .. '.until')
  if has[1] == token and has[2] then return acquired(conversation, queue) end
  local at = due(conversation, queue)
  if not at or math.max(at, restricted_until(conversation, queue)) > now then return false end
  if is_full(account_of(conversation), queue, account_concurrency) then return false end
  call('HINCRBY', record, queue .. '.epoch', 1)
  call('HSET', record, queue .. '.token', token, queue .. '.until', now + lease, queue .. '.since', now)
  try_out(conversation, queue, token, lease)
  call('SET', token_key(queue, token), conversation, 'PX', math.max(lease, 1))
  if queue == 'inbox' then
    call('HDEL', record, 'inbox.not_before')
    hold(conversation)
    call('HINCRBY', event_record(call('LINDEX', queue_key(conversation, queue), 0)), 'starts', 1)
  end
  if not is_claim(conversation) then
    local places, account = places_key(queue), account_of(conversation)
    local place = number(call('HGET', places, account)) or 0
    -- One more than before, so that acquires within one millisecond go around too.
    call('HSET', places, account, math.max(place, now * 1000) + 1)
  end
  schedule(conversation, queue)
  return acquired(conversation, queue)
end

-- Operations -------------------------------------------------------------------------------------

-- Why the operation at the head of a queue cannot be moved on; nil if it can.
local function refusal(conversation, queue, token, epoch, operation, pos)
  if call('LINDEX', queue_key(conversation, queue), 0) ~= operation then return 'already' end
  local cursor = cursor_of(conversation, queue)
  if cursor and pos and number(cursor[2]) > tonumber(pos) then return 'already' end
  if not held_until(conversation, queue, token, epoch) then return 'fenced' end
end

-- Puts the cursor on a part. What was noted about an earlier part is forgotten.
local function move_to(conversation, queue, operation, pos)
  local cursor = cursor_of(conversation, queue)
  if cursor and cursor[1] == operation and cursor[2] == pos then return end
  local record = conversation_record(conversation)
  call('HSET', record, queue .. '.operation', operation, queue .. '.pos', pos, queue .. '.tries', 0)
  call('HDEL', record, queue .. '.sent', queue .. '.note', queue .. '.echoes')
end

-- Removes the operation at the head; a list holds an id and a body for each.
local function drop_head(conversation, queue)
  note_left(conversation, queue, call('LINDEX', queue_key(conversation, queue), 0))
  call('LTRIM', queue_key(conversation, queue), 2, -1)
  call('HDEL', conversation_record(conversation), queue .. '.operation', queue .. '.pos', queue .. '.sent',
    queue .. '.tries', queue .. '.note', queue .. '.echoes')
  count(COUNTERS[queue], -1)
end

-- Notes that a part of the head operation is confirmed; the last part removes the operation.
local function confirm(conversation, queue, token, epoch, operation, pos, last, anchor)
  local record = conversation_record(conversation)
  local this_call = table.concat({ 'confirm', epoch, token, pos, operation }, ' ')
  if call('HGET', record, queue .. '.last') == this_call then return 'done' end
  local refused = refusal(conversation, queue, token, epoch, operation, pos)
  if refused then return refused end
  anchor = optional(anchor)
  if anchor then call('HSET', record, queue .. '.anchor', anchor) end
  call('HSET', record, queue .. '.last', this_call)
  call('HDEL', record, queue .. '.not_before')
  waits(conversation, queue)
  if last == '1' then drop_head(conversation, queue) else move_to(conversation, queue, operation, pos + 1) end
  schedule(conversation, queue)
  keep_while_busy(conversation)
  return 'done'
end
