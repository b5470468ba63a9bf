-- needs: simply, keys, routes, message, kept
--
-- Appends messages, one after the other: limits, this node, whether there are webhooks ('' if not),
-- then for each message the prefix of its partition, what is left there, its epoch, player, nonce,
-- now, body, and the owner of the key and the key ('' if there is none). In a Cluster all are of one
-- partition. What is left is three numbers: `room`, and two that the outbox is opened with.
--
-- Returns for each the offset, or why not: 'LOST', 'UNKNOWN', '!' and the limit that is reached, or
-- what known_key says; and after it the number of connections on other nodes. With losses the
-- offset, or why not, and they are a list.
local node = ARGV[2]
local replies = {}
-- What other nodes are to be told, by node: texts; and for each where its number of connections is
-- in `replies`, the key of the player's routes, and that number.
local texts, marks = {}, {}
local last = #ARGV - 8
local epoch, left, true_id, nonce, ts, body, owner, key

local function message_id(offset)
  return string.format('%s.%d.%x', epoch, offset, nonce)
end

local function remember_to_tell(place, offset, now)
  local routes = prefix .. 'r:' .. true_id
  local found = redis.call('HGETALL', routes)
  for index = 1, #found, 2 do
    local other = found[index]
    if other ~= node then
      local text, mark = texts[other], marks[other]
      if not text then
        text, mark = {'m'}, {}
        texts[other], marks[other] = text, mark
      end
      text[#text + 1] = message_text(true_id, epoch, offset, nonce, now, '', body)
      local count, connections = #mark, tonumber(found[index + 1])
      mark[count + 1], mark[count + 2], mark[count + 3] = place + 1, routes, connections
      replies[place + 1] = replies[place + 1] + connections
    end
  end
end

-- Tells the other nodes. One that does not hear is none: the routes to it go.
local function finish()
  for other, text in pairs(texts) do
    if tell(other, table.concat(text)) == 0 then
      local mark = marks[other]
      for index = 1, #mark, 3 do
        local place, routes = mark[index], mark[index + 1]
        replies[place] = replies[place] - mark[index + 2]
        if redis.call('HDEL', routes, other) == 1 then
          redis.call('HINCRBY', string.match(routes, '^(.-{%d+}:)') .. 'n', 'pruned', 1)
        end
      end
    end
  end
  return replies
end

local function read_arguments(at)
  prefix, left, epoch, true_id, nonce, ts, body, owner, key = unpack(ARGV, at, at + 8)
  room = struct.unpack('>d', left)
end

-- Returns false, and has done nothing, when more has to go than the oldest message.
local function append_simply(place)
  local total_now = redis.call('HMGET', prefix .. 'n', 'epoch', 'kept')
  if total_now[1] ~= epoch then
    replies[place], replies[place + 1] = 'LOST', 0
    return true
  end
  local now, needed = tonumber(ts), 0
  local kept_bytes, kept_messages = unpack_kept(total_now[2])
  local state = redis.call('HGET', prefix .. 'p:' .. true_id, 'box')
  if not state then
    -- Who has keys is known, too.
    if redis.call('EXISTS', prefix .. 'k:' .. true_id) == 0 then
      replies[place], replies[place + 1] = 'UNKNOWN', 0
      return true
    end
    know_player(true_id)
  end
  if owner ~= '' then
    local known = known_key(owner, key, 'p' .. true_id, now)
    if known then
      replies[place], replies[place + 1] = known, count_remote(true_id, node)
      return true
    end
    needed = key_bytes
    -- Old ones may have gone.
    kept_bytes, kept_messages = read_kept()
  end
  local allowed = room < 0 and math.huge or room - kept_bytes - needed
  local offset, messages, bytes, unread =
    keep_simply(true_id, state, nonce, ts, now, body, allowed)
  if not offset then
    return false
  end
  if messages ~= 0 or bytes + needed ~= 0 then
    write_kept(kept_bytes + bytes + needed, kept_messages + messages)
  end
  if owner ~= '' then
    remember_key(owner, key, ts, message_id(offset), 'p' .. true_id, true)
  end
  replies[place], replies[place + 1] = unread == 0 and offset or {offset, unread, 0, 0, 0}, 0
  remember_to_tell(place, offset, now)
  return true
end

local at, place = 4, 1
while at <= last do
  read_arguments(at)
  if not append_simply(place) then
    break
  end
  at, place = at + 9, place + 2
end
if at > last then
  return finish()
end

-- needs: mailbox
open_its_outbox = function()
  local _, most, most_dead = struct.unpack('>ddd', left)
  return new_outbox(node, most, most_dead, ARGV[3] ~= '' and nonce or '')
end

local function append_with_care(place)
  trimmed, expired, outbox = 0, 0, nil
  local now, size = tonumber(ts), overhead + #body
  local needed = owner ~= '' and size + key_bytes or size
  local box = open_mailbox(true_id)
  local reached = refuse > 0 and limit_reached(box, size, now)
  if not reached and not has_room({box}, size, needed, now) then
    reached = 'mailbox.total_bytes'
  end
  if not reached then
    put(box, nonce, ts, body)
    trim(box, now)
  end
  save_mailbox(box)
  local reply, lost = reached and '!' .. reached or box.head, losses()
  replies[place], replies[place + 1] = lost and {reply, unpack(lost)} or reply, 0
  if not reached then
    if owner ~= '' then
      remember_key(owner, key, ts, message_id(box.head), 'p' .. true_id)
    end
    remember_to_tell(place, box.head, now)
  end
end

repeat
  read_arguments(at)
  if not append_simply(place) then
    append_with_care(place)
  end
  at, place = at + 9, place + 2
until at > last
return finish()
