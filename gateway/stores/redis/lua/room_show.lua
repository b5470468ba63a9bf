-- Notes how many members of a room have connections at a node: room, node, how many. A node that is
-- new there is often the next life of another one: those that listen no more are taken out.
local key, node = prefix .. 'rn:' .. ARGV[1], ARGV[2]
if ARGV[3] == '0' then
  return redis.call('HDEL', key, node)
end
if redis.call('HSET', key, node, ARGV[3]) == 1 then
  for _, other in ipairs(redis.call('HKEYS', key)) do
    if other ~= node
      and redis.call('PUBSUB', 'SHARDNUMSUB', prefix .. 'n:' .. other)[2] == 0 then
      redis.call('HDEL', key, other)
    end
  end
end
return 1
