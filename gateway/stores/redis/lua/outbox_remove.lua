-- needs: epoch
--
-- Forgets webhooks that were sent.
local gone = redis.call('XDEL', prefix .. 'o', unpack(ARGV, 1, #ARGV - 1))
total('queued', -gone)
return gone
