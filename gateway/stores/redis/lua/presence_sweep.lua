-- needs: presence
--
-- Cleans up after nodes that died and looks who is gone: the outbox, the time, the grace, how
-- many players to look at, the nodes that are alive, with a space before and after each, and
-- those that are not. Returns webhooks written and given up, whether there is more to do, the
-- nodes that have players or watch some, and players who are gone.
local outbox = open_outbox(1)
local now, grace, left = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local most, live = left, ARGV[8]

-- Whether a player was away so long that a node which has them would have said so: its route is
-- one that was left behind.
local function is_overdue(player)
  return player.seen and now > player.seen[3] + grace + 30
end

for index = 9, #ARGV - 1 do
  local node = ARGV[index]
  local here, watched = prefix .. 'on:' .. node, prefix .. 'wn:' .. node
  for _, true_id in ipairs(redis.call('SPOP', here, left)) do
    local player = open_player(true_id)
    put_entry(player, node, nil)
    update_player(outbox, player, '', now, grace, false)
    tell(node, payload('d', true_id))
    left = left - 1
  end
  for _, true_id in ipairs(redis.call('SPOP', watched, left)) do
    redis.call('SREM', prefix .. 'w:' .. true_id, node)
    left = left - 1
  end
  if redis.call('EXISTS', here, watched) == 0 then
    redis.call('SREM', prefix .. 'pn', node)
  end
end
local due = redis.call('ZRANGEBYSCORE', prefix .. 'away', '-inf', now, 'LIMIT', 0, left)
for _, true_id in ipairs(due) do
  local player = open_player(true_id)
  if next(player.entries) then
    redis.call('ZREM', prefix .. 'away', true_id)
  elseif is_elsewhere(true_id, '', live) and not is_overdue(player) then
    redis.call('ZADD', prefix .. 'away', now + 1, true_id)
  else
    set_offline(outbox, player, '', now)
  end
  left = left - 1
end
local added, full = close_outbox(outbox)
return {
  added, full, left <= 0 and 1 or 0, redis.call('SMEMBERS', prefix .. 'pn'),
  redis.call('SRANDMEMBER', prefix .. 'gone', most)
}
