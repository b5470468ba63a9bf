-- Notes how many members of a room have connections at a node: room, node, how many.
local key = prefix .. 'rn:' .. ARGV[1]
if ARGV[3] == '0' then
  return redis.call('HDEL', key, ARGV[2])
end
return redis.call('HSET', key, ARGV[2], ARGV[3])
