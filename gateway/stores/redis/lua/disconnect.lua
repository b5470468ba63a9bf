-- needs: routes
--
-- Disconnects a player from the other nodes: this node, the player, and why. Returns how many
-- connections that were.
local node, true_id, reason = ARGV[1], ARGV[2], ARGV[3]
return tell_routes(true_id, node, function()
  return payload('x', true_id, '', reason)
end)
