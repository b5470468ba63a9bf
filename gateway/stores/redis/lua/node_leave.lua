-- A node is gone: it is neither alive nor dead.
redis.call('ZREM', prefix .. 'nodes', ARGV[1])
redis.call('HDEL', prefix .. 'addresses', ARGV[1])
redis.call('SREM', prefix .. 'leaving', ARGV[1])
return 1
