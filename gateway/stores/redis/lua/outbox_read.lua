-- needs: epoch
--
-- Webhooks that wait: after which one, and how many at most.
return redis.call('XRANGE', prefix .. 'o', '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
