-- needs: sessions
--
-- Bans a player, or lifts the ban: this node, player, ban (JSON; '' to lift), its end ('' if it has
-- none). The other nodes at which the player is are told. `bz` has the bans that end.
local node, true_id, ban, ends = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
redis.call('ZREM', prefix .. 'bz', true_id)
if ban == '' then
  redis.call('HDEL', prefix .. 'b', true_id)
  may_be_forgotten(true_id)
  return 1
end
know_player(true_id)
redis.call('HSET', prefix .. 'b', true_id, ban)
if ends ~= '' then
  redis.call('ZADD', prefix .. 'bz', ends, true_id)
end
for _, other in ipairs(redis.call('HKEYS', prefix .. 'r:' .. true_id)) do
  if other ~= node then
    tell(other, payload('x', true_id, '', 'banned'))
  end
end
return 1
