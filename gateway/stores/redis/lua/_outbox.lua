-- Webhooks: the stream `o` has those that wait, `od` those given up, `here` who was reported
-- online. A script that may write some opens the outbox with four arguments: this node, the
-- most that may wait in the partition, the most that were given up (0: no limit), and a random
-- number, which is empty when there is nobody to send webhooks to.

local function new_outbox(node, most, most_dead, seed)
  return {
    node = node,
    most = tonumber(most),
    most_dead = tonumber(most_dead),
    seed = seed,
    added = 0,
    full = 0,
  }
end

local function open_outbox(at)
  return new_outbox(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
end

-- Gives up a webhook, by its entry and its id; false if it does not wait.
local function bury_webhook(outbox, entry, id, reason, now)
  local found = redis.call('XRANGE', prefix .. 'o', entry, entry)[1]
  if not found or found[2][2] ~= id then
    return false
  end
  redis.call('XDEL', prefix .. 'o', entry)
  total('queued', -1)
  local fields = found[2]
  fields[#fields + 1] = 'reason'
  fields[#fields + 1] = reason
  fields[#fields + 1] = 'given_up'
  fields[#fields + 1] = now
  redis.call('XADD', prefix .. 'od', '*', unpack(fields))
  local dead = total('dead', 1)
  if outbox.most_dead > 0 and dead > outbox.most_dead then
    redis.call('XTRIM', prefix .. 'od', 'MAXLEN', outbox.most_dead)
    total('dead', outbox.most_dead - dead)
  end
  return true
end

-- Writes a webhook; the oldest of the partition is given up for it when there is no room.
local function webhook(outbox, kind, true_id, now, data)
  if outbox.seed == '' then
    return
  end
  local number = total('webhook', 1)
  local nonce = string.sub(redis.sha1hex(outbox.seed .. '.' .. number), 1, 10)
  local partition = string.match(prefix, '{(%d+)}:$')
  local epoch = redis.call('HGET', prefix .. 'n', 'epoch')
  -- Partitions that began together have one epoch, and each counts for itself.
  local id = string.format('%s.%s-%d.%s', epoch, partition, number, nonce)
  redis.call('XADD', prefix .. 'o', string.format('%d-0', number),
    'id', id, 'kind', kind, 'true_id', true_id, 'ts', now, 'data', data)
  outbox.added = outbox.added + 1
  local queued = total('queued', 1)
  if outbox.most > 0 and queued > outbox.most then
    local oldest = redis.call('XRANGE', prefix .. 'o', '-', '+', 'COUNT', 1)[1]
    if bury_webhook(outbox, oldest[1], oldest[2][2], 'webhooks.max_queued is reached', now) then
      outbox.full = outbox.full + 1
    end
  end
end

-- Tells the node that sends the partition's webhooks; returns how many were written, and how
-- many given up for lack of room.
local function close_outbox(outbox)
  if outbox.added > 0 then
    local owner = redis.call('GET', prefix .. 'own')
    if owner and owner ~= outbox.node then
      tell(owner, payload('o'))
    end
  end
  return outbox.added, outbox.full
end
