-- needs: epoch
--
-- Writes and reads something.
redis.call('SET', prefix .. 'check', ARGV[1])
return redis.call('GET', prefix .. 'check')
