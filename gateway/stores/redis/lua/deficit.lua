-- needs: epoch, box, routes
--
-- Messages that a node has acknowledged, and that a failover or a restart may have lost: node, then
-- player, offset and nonce of the newest one, again and again. A mailbox that lacks it gets a hole
-- there, and nodes at which the player has connections are told. Returns the players with holes,
-- each followed by how many messages it lacks, as far as can be told.
local node = ARGV[1]
local found = {}
for index = 2, #ARGV - 1, 3 do
  local true_id, offset, nonce = ARGV[index], ARGV[index + 1], ARGV[index + 2]
  local key = prefix .. 'p:' .. true_id
  local player = redis.call('HMGET', key, 'box', 'confirmed', 'hole_after', 'hole_lost')
  local head = player[1] and unpack_box(player[1])
  local missing = 0
  -- Of a player who is gone with all messages the sessions are gone, too: they are told by that.
  if head and head < tonumber(offset) then
    missing = offset - head
  elseif head then
    local entry = redis.call('XRANGE', prefix .. 'm:' .. true_id, offset, offset, 'COUNT', 1)[1]
    if entry and entry[1] ~= offset .. '-' .. nonce then
      missing = 1
    end
  end
  if missing > 0 then
    local after, lost = tonumber(player[3] or -1), tonumber(player[4] or 0)
    if after == head then
      -- Another node has missed the same.
      redis.call('HSET', key, 'hole_lost', math.max(lost, missing))
    elseif after >= tonumber(player[2] or 0) then
      redis.call('HINCRBY', key, 'hole_lost', missing)
    else
      redis.call('HSET', key, 'hole_after', head, 'hole_lost', missing)
    end
    tell_routes(true_id, node, function()
      return payload('h', true_id)
    end)
    found[#found + 1] = true_id
    found[#found + 1] = missing
  end
end
return found
