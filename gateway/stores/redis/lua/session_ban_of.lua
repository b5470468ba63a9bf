-- needs: epoch
--
-- A player's ban.
return redis.call('HGET', prefix .. 'b', ARGV[1])
