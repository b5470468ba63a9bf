-- needs: box
--
-- Players. `p:T` is there for a player who is known; `known` has all of them in the order in which
-- they came. `old` has those with messages, by the time of the oldest; `reclaim` those with
-- messages that may be no longer needed; `spare` those who may be no longer needed themselves.

local function know_player(true_id)
  if redis.call('HSETNX', prefix .. 'p:' .. true_id, 'box', pack_box(0, 0, 0, 0)) == 1 then
    redis.call('ZADD', prefix .. 'known', total('order', 1), true_id)
  end
end

-- Whoever takes away what a player was kept for calls this: the next sweep looks at them.
local function may_be_forgotten(true_id)
  redis.call('SADD', prefix .. 'spare', true_id)
end

-- What all sessions of a player have confirmed may be more now.
local function confirmed_more(true_id)
  local _, count = unpack_box(redis.call('HGET', prefix .. 'p:' .. true_id, 'box'))
  if count > 0 then
    redis.call('ZADD', prefix .. 'reclaim', 'NX', total('order', 1), true_id)
  end
end

-- A session of a player has confirmed all up to an offset.
local function confirmed_up_to(true_id, offset)
  local player = prefix .. 'p:' .. true_id
  local before = redis.call('HMGET', player, 'box', 'confirmed')
  if before[1] then
    if offset > tonumber(before[2] or 0) then
      redis.call('HSET', player, 'confirmed', offset)
    end
    confirmed_more(true_id)
  end
end
