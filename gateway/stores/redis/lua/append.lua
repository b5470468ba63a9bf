-- needs: limits, keys, routes
--
-- Appends a message: limits, outbox, player, nonce, now, body, and the owner of the key and the
-- key, if there is one. Returns the offset, or why not: 'UNKNOWN', '!' and the limit that is
-- reached, or what known_key says. If there is more to say it is the first of a list, followed by
-- the number of connections on other nodes, and losses.
local node, true_id, nonce, ts, body = ARGV[2], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local player = prefix .. 'p:' .. true_id
local now, size = tonumber(ts), overhead + #body
local needed = size
local owner, key

local found = redis.call('HMGET', player, 'head', 'count', 'size', 'oldest', 'confirmed')
if not found[1] then
  -- Who has keys is known, too.
  if redis.call('EXISTS', prefix .. 'k:' .. true_id) == 0 then
    return 'UNKNOWN'
  end
  know_player(true_id)
  found[1] = 0
end
if #ARGV > 10 then
  owner, key = ARGV[10], ARGV[11]
  local known = known_key(owner, key, 'p' .. true_id, now)
  if known then
    return {known, count_remote(true_id, node)}
  end
  needed = needed + key_bytes
end

-- Returns the id of the message at an offset.
local function message_id(offset)
  return string.format('%s.%d.%x', epoch, offset, nonce)
end

local function tell_others(offset)
  return tell_routes(true_id, node, function()
    return payload('m', true_id, message_id(offset), ts, '', body)
  end)
end

-- Nearly always there is room, and at most the oldest message has to go.
local head, count, held = tonumber(found[1]), tonumber(found[2] or 0), tonumber(found[3] or 0)
local gone, gone_size = 0, 0
local simple = refuse == 0
  and (room < 0 or tonumber(redis.call('HGET', prefix .. 'n', 'bytes') or 0) + needed <= room)
  and not (retention > 0 and count > 0 and tonumber(found[4]) < now - retention)
if simple and (max_messages > 0 and count >= max_messages
  or max_bytes > 0 and held + size > max_bytes) then
  local first = count > 0 and redis.call('XRANGE', prefix .. 'm:' .. true_id,
    head - count + 1, '+', 'COUNT', 1)[1]
  if first then
    gone, gone_size = 1, overhead + #first[2][2]
  end
  simple = first and not (max_messages > 0 and count > max_messages
    or max_bytes > 0 and held + size - gone_size > max_bytes)
end
if simple then
  local stream = prefix .. 'm:' .. true_id
  local offset = head + 1
  redis.call('XADD', stream, offset .. '-' .. nonce, 'b', body, 't', ts)
  if count == 0 then
    redis.call('HSET', player, 'head', offset, 'count', 1, 'size', size, 'oldest', ts)
    redis.call('ZADD', prefix .. 'old', ts, true_id)
  else
    redis.call('HSET', player, 'head', offset, 'count', count + 1 - gone,
      'size', held + size - gone_size)
  end
  local unread = 0
  if gone == 0 then
    total('messages', 1)
  else
    local first = offset - count + 1
    -- Now and then is enough: nobody looks at what is before the first.
    if first % 16 == 0 or gone_size > 4096 then
      redis.call('XTRIM', stream, 'MINID', first)
    end
    if first - 1 > tonumber(found[5] or 0) then
      unread = 1
    end
  end
  if needed ~= gone_size then
    total('bytes', needed - gone_size)
  end
  if owner then
    remember_key(owner, key, ts, message_id(offset), 'p' .. true_id, true)
  end
  local remote = tell_others(offset)
  if remote == 0 and unread == 0 then
    return offset
  end
  return {offset, remote, unread, 0, 0, 0}
end

-- needs: mailbox
local box = open_mailbox(true_id)
local result
if refuse > 0 then
  result = limit_reached(box, size, now)
end
if not result and not has_room({box}, size, needed, now) then
  result = 'mailbox.total_bytes'
end
local remote = 0
if result then
  result = '!' .. result
  save_mailbox(box)
else
  put(box, nonce, ts, body)
  result = box.head
  trim(box, now)
  save_mailbox(box)
  if owner then
    remember_key(owner, key, ts, message_id(result), 'p' .. true_id)
  end
  remote = tell_others(result)
end
local lost = losses()
if not lost and remote == 0 then
  return result
end
return {result, remote, unpack(lost or {})}
