-- needs: limits, players, kept
--
-- Idempotency keys. `k:OWNER` has key -> the message's id, a space, and what it was sent to:
-- `p` and a player or `r` and a room. `kz:OWNER` has when it was and the key, in this order; `ko`
-- the owners by the time of their oldest key.

-- Forgets keys that have outlived the window; returns when the oldest that is left was used.
local function forget_old_keys(owner, now)
  local list = prefix .. 'kz:' .. owner
  for round = 0, 256 do
    local entry = redis.call('LINDEX', list, 0)
    if not entry then
      if round > 0 then
        redis.call('ZREM', prefix .. 'ko', owner)
        may_be_forgotten(owner)
      end
      return nil
    end
    local space = string.find(entry, ' ', 1, true)
    local ts = tonumber(string.sub(entry, 1, space - 1))
    if ts >= now - window or round == 256 then
      if round > 0 then
        redis.call('ZADD', prefix .. 'ko', ts, owner)
      end
      return ts
    end
    redis.call('LPOP', list)
    redis.call('HDEL', prefix .. 'k:' .. owner, string.sub(entry, space + 1))
    change_kept(-key_bytes, 0)
  end
end

-- Returns nil if a key is new and may be used. Else '=' and the id of its message, 'TAKEN' if that
-- was sent to something else, or 'KEYS' and when the owner's oldest was used, if there are too many.
local function known_key(owner, key, target, now)
  local oldest = forget_old_keys(owner, now)
  if not oldest then
    return nil
  end
  local keys = prefix .. 'k:' .. owner
  local found = redis.call('HGET', keys, key)
  if found then
    local space = string.find(found, ' ', 1, true)
    if string.sub(found, space + 1) == target then
      return '=' .. string.sub(found, 1, space - 1)
    end
    return 'TAKEN'
  end
  if most_keys > 0 and redis.call('HLEN', keys) >= most_keys then
    return string.format('KEYS %.17g', oldest)
  end
  return nil
end

-- `counted` says that the caller counts its bytes.
local function remember_key(owner, key, ts, id, target, counted)
  redis.call('HSET', prefix .. 'k:' .. owner, key, id .. ' ' .. target)
  if redis.call('RPUSH', prefix .. 'kz:' .. owner, ts .. ' ' .. key) == 1 then
    redis.call('ZADD', prefix .. 'ko', ts, owner)
  end
  if not counted then
    change_kept(key_bytes, 0)
  end
end
