-- Begins an epoch, with a name for it, unless the partition has one; and says in which format what
-- is written here is. Returns the epoch and the format that the partition has.
-- needs: full
redis.call('HSETNX', prefix .. 'n', 'epoch', ARGV[1])
redis.call('SET', prefix .. 'format', ARGV[2], 'NX')
return {redis.call('HGET', prefix .. 'n', 'epoch'), redis.call('GET', prefix .. 'format')}
