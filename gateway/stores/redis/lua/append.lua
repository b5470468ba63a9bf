-- needs: keys
--
-- Appends a message: limits, outbox, player, nonce, now, body, and the owner of the key and the
-- key, if there is one. Returns the offset, or why not: 'UNKNOWN', '!' and the limit that is
-- reached, or what known_key says. If there is more to say it is the first of a list, followed by
-- the number of connections on other nodes, and losses.
local node, true_id, nonce, ts, body = ARGV[2], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local owner, key = nil, nil
if #ARGV > 10 then
  owner, key = ARGV[10], ARGV[11]
end
local now, size = tonumber(ts), overhead + #body
local needed = size

local box = open_mailbox(true_id)
if not box then
  if redis.call('EXISTS', prefix .. 'k:' .. true_id) == 0 then
    return 'UNKNOWN'
  end
  know_player(true_id)
  box = open_mailbox(true_id)
end
if owner then
  local known = known_key(owner, key, 'p' .. true_id, now)
  if known then
    return known
  end
  needed = needed + key_bytes
end
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
  local function id()
    return string.format('%s.%d.%x', epoch, result, nonce)
  end
  if owner then
    remember_key(owner, key, ts, id(), 'p' .. true_id)
  end
  remote = tell_routes(true_id, node, function()
    return payload('m', true_id, id(), ts, '', body)
  end)
end
local lost = losses()
if not lost and remote == 0 then
  return result
end
return {result, remote, unpack(lost or {})}
