-- Begins an epoch, with a name for it, unless the partition has one. Returns the one it has.
redis.call('SET', prefix .. 'epoch', ARGV[1], 'NX')
return redis.call('GET', prefix .. 'epoch')
