-- needs: limits, players, kept, outbox, routes
--
-- Mailboxes. `m:T` has the messages: the id is offset-nonce. `p:T` has the mailbox' state, see
-- _box.lua, what the player has `confirmed` by any session, and `skips`, if `sk:T` has offsets that
-- sessions pass over. Messages before the first that counts may still be there for a while.
--
-- What is decided here is what gateway/stores/memory.py decides.

-- Messages that went before any session had confirmed them.
local trimmed, expired = 0, 0
local outbox
local open_its_outbox = function()
  return open_outbox(2)
end

local function open_mailbox(true_id)
  local key = prefix .. 'p:' .. true_id
  local found = redis.call('HMGET', key, 'box', 'confirmed', 'skips')
  if not found[1] then
    return nil
  end
  local head, count, size, oldest = unpack_box(found[1])
  return {
    true_id = true_id,
    key = key,
    head = head,
    count = count,
    size = size,
    oldest = oldest,
    confirmed = tonumber(found[2] or 0),
    skips = found[3],
    saved_count = count,
    saved_size = size,
  }
end

local function save_mailbox(box)
  redis.call('HSET', box.key, 'box', pack_box(box.head, box.count, box.size, box.oldest))
  if box.size ~= box.saved_size or box.count ~= box.saved_count then
    change_kept(box.size - box.saved_size, box.count - box.saved_count)
    box.saved_size, box.saved_count = box.size, box.count
  end
end

-- Returns size and time of the message at an offset that the mailbox has.
local function message_at(box, offset)
  local page = box.page
  if not page or offset < box.page_start or offset >= box.page_start + #page then
    page = redis.call('XRANGE', prefix .. 'm:' .. box.true_id, offset, '+', 'COUNT',
      page and 32 or 2)
    box.page, box.page_start = page, offset
  end
  local entry = page[offset - box.page_start + 1]
  if not entry then
    return nil
  end
  return overhead + #entry[2][2], tonumber(entry[2][4])
end

-- Makes the stream what `count` says. What is not there any more cannot be counted on.
local function cut(box)
  local stream = prefix .. 'm:' .. box.true_id
  local first = box.head - box.count + 1
  local _, oldest = nil, nil
  if box.count > 0 then
    _, oldest = message_at(box, first)
  end
  box.oldest = oldest or 0
  if oldest then
    redis.call('XTRIM', stream, 'MINID', first)
    redis.call('ZADD', prefix .. 'old', oldest, box.true_id)
  else
    box.count, box.size = 0, 0
    redis.call('DEL', stream)
    redis.call('ZREM', prefix .. 'old', box.true_id)
    may_be_forgotten(box.true_id)
  end
  if box.skips then
    redis.call('ZREMRANGEBYSCORE', prefix .. 'sk:' .. box.true_id, '-inf', '(' .. first)
  end
end

local function is_over(box)
  return max_messages > 0 and box.count > max_messages or max_bytes > 0 and box.size > max_bytes
end

-- Keeps a mailbox within its limits: Mailbox.trim. With `most` it may leave it at so many messages
-- that are too old.
local function trim(box, now, most)
  local kept_from = retention > 0 and now - retention or -math.huge
  if box.count == 0 or box.oldest >= kept_from and not is_over(box) then
    return
  end
  local too_old, too_many = 0, 0
  while box.count > 0 do
    local size, ts = message_at(box, box.head - box.count + 1)
    if not size or too_old == most then
      break
    elseif too_many == 0 and ts < kept_from then
      too_old = too_old + 1
    elseif is_over(box) then
      too_many = too_many + 1
    else
      break
    end
    box.count = box.count - 1
    box.size = box.size - size
  end
  -- The oldest went first; of what went, the newest ones may be unread.
  local unread = box.head - box.count - box.confirmed
  cut(box)
  if too_many > 0 and unread > 0 then
    trimmed = trimmed + math.min(too_many, unread)
  end
  local count = math.min(too_old, unread - too_many)
  if count > 0 then
    expired = expired + count
    outbox = outbox or open_its_outbox()
    webhook(outbox, 'message.expired', box.true_id, now, '{"messages":' .. count .. '}')
  end
end

-- Returns the bytes that `trim` would free if a message of `size` bytes were appended.
local function excess(box, size)
  local most = max_messages > 0 and max_messages - 1 or math.huge
  local most_bytes = max_bytes > 0 and max_bytes - size or math.huge
  local freed, count = 0, box.count
  while count > 0 and (count > most or box.size - freed > most_bytes) do
    freed = freed + (message_at(box, box.head - count + 1) or 0)
    count = count - 1
  end
  return freed
end

-- Returns the offset up to which no session of the player needs a message any more.
local function read_by_all(box)
  local least
  for _, record in ipairs(redis.call('HVALS', prefix .. 's:' .. box.true_id)) do
    local confirmed = cjson.decode(record).confirmed
    if not least or confirmed < least then
      least = confirmed
    end
  end
  return least or box.confirmed
end

-- Drops the messages that no session needs.
local function drop_read(box)
  local through = math.min(read_by_all(box), box.head)
  local first = box.head - box.count + 1
  if box.count == 0 or through < first then
    return
  end
  for offset = first, through do
    box.size = box.size - (message_at(box, offset) or 0)
  end
  box.count = box.head - through
  cut(box)
end

-- Names the limit that a message would exceed, if its mailbox is not to drop any: what is too old
-- and what all sessions have confirmed makes room first.
local function limit_reached(box, size, now)
  trim(box, now)
  if excess(box, size) > 0 then
    drop_read(box)
  end
  if excess(box, size) == 0 then
    return nil
  end
  if max_messages > 0 and box.count >= max_messages then
    return 'mailbox.max_messages'
  end
  return 'mailbox.max_bytes'
end

-- Makes room for `needed` bytes in the partition, `size` in each of these mailboxes; false: there
-- is none. What the mailboxes themselves will trim counts as room, the rest comes from messages
-- that nobody needs. A player is looked at once for each time that something was confirmed.
local function make_room(boxes, size, needed, now)
  local open, left, freed = {}, {}, 0
  for _, box in ipairs(boxes) do
    trim(box, now)
    save_mailbox(box)
    open[box.true_id] = box
    left[box.true_id] = excess(box, size)
    freed = freed + left[box.true_id]
  end
  local tries = 1000
  while read_kept() + needed - freed > room do
    local found = redis.call('ZPOPMIN', prefix .. 'reclaim')
    local true_id = found[1]
    tries = tries - 1
    if not true_id or tries == 0 then
      return false
    end
    local box = open[true_id] or open_mailbox(true_id)
    if box then
      drop_read(box)
      save_mailbox(box)
      if left[true_id] then
        freed = freed - left[true_id]
        left[true_id] = excess(box, size)
        freed = freed + left[true_id]
      end
    end
  end
  return true
end

-- Whether the partition has room for `needed` bytes: see make_room.
local function has_room(boxes, size, needed, now)
  if room < 0 then
    return true
  end
  local bytes = read_kept()
  for _, box in ipairs(boxes) do
    bytes = bytes + box.size - box.saved_size
  end
  return bytes + needed <= room or make_room(boxes, size, needed, now)
end

-- Gives a message the next offset and keeps it; `skip` is the session that passes over it.
local function put(box, nonce, ts, body, skip)
  local stream = prefix .. 'm:' .. box.true_id
  local offset = box.head + 1
  if skip then
    redis.call('XADD', stream, offset .. '-' .. nonce, 'b', body, 't', ts, 's', skip)
    redis.call('ZADD', prefix .. 'sk:' .. box.true_id, offset, offset .. ':' .. skip)
    if not box.skips then
      box.skips = '1'
      redis.call('HSET', box.key, 'skips', 1)
    end
  else
    redis.call('XADD', stream, offset .. '-' .. nonce, 'b', body, 't', ts)
  end
  box.head = offset
  box.count = box.count + 1
  box.size = box.size + overhead + #body
  if box.count == 1 then
    box.oldest = tonumber(ts)
    redis.call('ZADD', prefix .. 'old', ts, box.true_id)
  end
end

-- What `trim` has to tell: trimmed, expired, webhooks written and given up; nil if nothing.
local function losses()
  if trimmed == 0 and expired == 0 then
    return nil
  end
  local added, given_up = 0, 0
  if outbox then
    added, given_up = close_outbox(outbox)
  end
  return {trimmed, expired, added, given_up}
end
