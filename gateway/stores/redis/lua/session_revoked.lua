-- needs: epoch
--
-- When a player's session and the player were revoked, and up to when anybody may have been.
return {
  redis.call('ZSCORE', prefix .. 'x', 's:' .. ARGV[2]),
  redis.call('ZSCORE', prefix .. 'x', 'p:' .. ARGV[1]),
  redis.call('GET', prefix .. 'x_until'),
}
