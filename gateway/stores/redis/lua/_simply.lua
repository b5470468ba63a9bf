-- needs: limits, box
--
-- Nearly always a mailbox has room, and at most the oldest message has to go for a new one.

-- Gives a message the next offset of a mailbox, whose state is `state`, and keeps it. Returns the
-- offset, how many messages and bytes the mailbox has more now, and 1 if the one that went was
-- unread, else 0. Returns nil, and has done nothing, if there is more to it, or it would take
-- more than `allowed` bytes.
local function keep_simply(true_id, state, nonce, ts, now, body, allowed)
  local head, count, held, oldest = unpack_box(state)
  if refuse ~= 0 or retention > 0 and count > 0 and oldest < now - retention then
    return nil
  end
  local player, stream = prefix .. 'p:' .. true_id, prefix .. 'm:' .. true_id
  local offset, size = head + 1, overhead + #body
  local gone, gone_size, unread = 0, 0, 0
  if max_messages > 0 and count >= max_messages or max_bytes > 0 and held + size > max_bytes then
    local first = count > 0 and redis.call('XRANGE', stream, offset - count, '+', 'COUNT', 1)[1]
    if not first then
      return nil
    end
    gone, gone_size = 1, overhead + #first[2][2]
    if max_messages > 0 and count > max_messages
      or max_bytes > 0 and held + size - gone_size > max_bytes then
      return nil
    end
  end
  if size - gone_size > allowed then
    return nil
  end
  redis.call('XADD', stream, string.format('%d-%s', offset, nonce), 'b', body, 't', ts)
  if count == 0 then
    oldest = now
    redis.call('ZADD', prefix .. 'old', ts, true_id)
  end
  redis.call('HSET', player, 'box',
    pack_box(offset, count + 1 - gone, held + size - gone_size, oldest))
  if gone > 0 then
    local first = offset - count + 1
    -- Now and then is enough: nobody looks at what is before the first.
    if first % 16 == 0 or gone_size > 4096 then
      redis.call('XTRIM', stream, 'MINID', first)
    end
    if first > tonumber(redis.call('HGET', player, 'confirmed') or 0) + 1 then
      unread = 1
    end
  end
  return offset, 1 - gone, size - gone_size, unread
end
