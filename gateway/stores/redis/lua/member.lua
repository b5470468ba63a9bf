-- needs: epoch, players
--
-- Notes that a player is in a room ('1'), or in none any more ('0'): player, which.
local key = prefix .. 'p:' .. ARGV[1]
if ARGV[2] == '1' then
  know_player(ARGV[1])
  redis.call('HSET', key, 'rooms', 1)
elseif redis.call('HDEL', key, 'rooms') == 1 then
  may_be_forgotten(ARGV[1])
end
return 1
