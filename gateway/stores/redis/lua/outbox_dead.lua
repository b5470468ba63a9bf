-- needs: epoch
--
-- Webhooks that were given up, the last one first: how many at most.
return redis.call('XREVRANGE', prefix .. 'od', '+', '-', 'COUNT', ARGV[1])
