-- needs: epoch, simply, kept, routes
--
-- Puts a message to a room into mailboxes of members: limits, outbox, room, its number, that of
-- the last message to the room for this partition, '1' to pass over that one if it never came,
-- how long to remember this (seconds), nonce, now, body, sender ('' for none), the session that
-- passes over the sender's copy ('' for none), the members. Returns 'BEHIND' if the last message
-- has not come yet ('BLANK' if none ever has), '=' and the offset of the sender's copy if this
-- one has, 'PASSED' if a later one has. Else a list: the limit that full mailboxes have reached,
-- connections on other nodes, and players who have only such, the offset for each member, 0 if
-- the mailbox is full; losses.
local node, room, number, before = ARGV[2], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local nonce, ts, body, sender, skip = ARGV[11], ARGV[12], ARGV[13], ARGV[14], ARGV[15]
local now, size = tonumber(ts), overhead + #body
local state = prefix .. 'q:' .. room
local first_member = 16

-- `recent` has the last ones: a space, the number, a colon and the offset of the sender's copy.
local found = redis.call('HMGET', state, 'last', 'recent')
local last, recent = tonumber(found[1] or 0), found[2] or ''
if number <= last then
  local offset = string.match(recent, ' ' .. ARGV[7] .. ':(%d+)')
  if offset then
    return '=' .. offset
  end
  -- Older than all of these: then it came long ago.
  local oldest = string.match(recent, '^ (%d+):')
  return oldest and number < tonumber(oldest) and '=0' or 'PASSED'
elseif last < before and ARGV[9] ~= '1' then
  return found[1] and 'BEHIND' or 'BLANK'
end

local function remember(own)
  redis.call('HSET', state, 'last', ARGV[7], 'recent', recent .. ' ' .. ARGV[7] .. ':' .. own)
end

-- Without memory Redis refuses this, before anything is done, and not something in the middle.
if #recent > 320 then
  recent = string.match(recent, '^ [^ ]+(.*)$')
end
remember(0)
-- Ten minutes are much less than that.
if math.floor(number / 6e8) ~= math.floor(last / 6e8) then
  redis.call('EXPIRE', state, ARGV[10])
end

local remote, elsewhere = 0, 0
local new_messages, new_bytes, unread = 0, 0, 0
local offsets, copies, holes, rest = {}, {}, {}, {}

local function list_of(lists, other)
  lists[other] = lists[other] or {}
  return lists[other]
end

-- Notes what the nodes are to be told on which a player has connections.
local function note_routes(true_id, offset)
  local routes = redis.call('HGETALL', prefix .. 'r:' .. true_id)
  local here, there = false, 0
  for index = 1, #routes, 2 do
    local other = routes[index]
    if other == node then
      here = true
    elseif offset == 0 then
      table.insert(list_of(holes, other), true_id)
    else
      there = there + tonumber(routes[index + 1])
      local list = list_of(copies, other)
      list[#list + 1] = true_id
      list[#list + 1] = offset
    end
  end
  remote = remote + there
  if there > 0 and not here then
    elsewhere = elsewhere + 1
  end
end

local function tell_copies()
  for other, list in pairs(copies) do
    local fields = {epoch, string.format('%x', nonce), ts, body}
    for _, field in ipairs(list) do
      fields[#fields + 1] = field
    end
    if tell(other, payload_of('c', fields)) == 0 then
      for index = 1, #list, 2 do
        redis.call('HDEL', prefix .. 'r:' .. list[index], other)
      end
    end
  end
end

for index = first_member, #ARGV - 1 do
  local true_id = ARGV[index]
  local place = index - first_member + 1
  local state = not (true_id == sender and skip ~= '')
    and redis.call('HGET', prefix .. 'p:' .. true_id, 'box')
  local offset, messages, bytes, is_unread
  if state then
    offset, messages, bytes, is_unread =
      keep_simply(true_id, state, nonce, ts, now, body, math.huge)
  end
  if not offset then
    offsets[place] = 0
    rest[#rest + 1] = place
  else
    offsets[place] = offset
    new_messages, new_bytes = new_messages + messages, new_bytes + bytes
    unread = unread + is_unread
    if true_id == sender then
      remember(offset)
    end
    note_routes(true_id, offset)
  end
end
if new_messages ~= 0 or new_bytes ~= 0 then
  change_kept(new_bytes, new_messages)
end
if #rest == 0 then
  tell_copies()
  if unread == 0 then
    return {'', remote, elsewhere, offsets}
  end
  return {'', remote, elsewhere, offsets, unread, 0, 0, 0}
end

-- needs: mailbox, message
local limit = ''

local function leave_hole(box)
  local hole = redis.call('HGET', box.key, 'hole_after')
  if hole and tonumber(hole) >= read_by_all(box) then
    redis.call('HINCRBY', box.key, 'hole_lost', 1)
  else
    redis.call('HSET', box.key, 'hole_after', box.head, 'hole_lost', 1)
  end
end

trimmed = unread
for _, place in ipairs(rest) do
  local true_id = ARGV[first_member + place - 1]
  local is_skipped = true_id == sender and skip ~= ''
  local box = open_mailbox(true_id)
  if not box then
    know_player(true_id)
    box = open_mailbox(true_id)
  end
  local reached = refuse > 0 and limit_reached(box, size, now)
  if reached then
    limit = reached
    leave_hole(box)
  else
    put(box, nonce, ts, body, is_skipped and skip or nil)
    trim(box, now)
    offsets[place] = box.head
  end
  save_mailbox(box)
  if true_id == sender and not reached then
    remember(box.head)
  end
  if is_skipped and not reached then
    remote = remote + tell_routes(true_id, node, function()
      return 'm' .. message_text(true_id, epoch, box.head, nonce, now, skip, body)
    end)
  else
    note_routes(true_id, offsets[place])
  end
end
tell_copies()
for other, players in pairs(holes) do
  tell(other, payload_of('h', players))
end
return {limit, remote, elsewhere, offsets, unpack(losses() or {})}
