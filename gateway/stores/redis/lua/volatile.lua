-- needs: routes
--
-- Hands an event that is stored nowhere to the other nodes of a player: this node, player, the
-- event. Returns how many connections the player has there.
local node, true_id, array = ARGV[1], ARGV[2], ARGV[3]
return tell_routes(true_id, node, function()
  return payload('v', true_id, array)
end)
