-- needs: epoch
--
-- Who was reported online.
return redis.call('SMEMBERS', prefix .. 'here')
