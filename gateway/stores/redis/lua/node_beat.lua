-- A node is alive: the node, its address for other nodes ('' if it has none), its lease in
-- milliseconds, whether it is about to leave ('1') or not. `nodes` has all by the end of their lease,
-- by this server's clock; `addresses` where they are, `leaving` who is about to leave. Nodes that
-- died are kept for a while, so that others know that they did. Returns those that are alive, each
-- followed by its address and whether it leaves, and those that died.
-- fleeting
local node, address, lease, leaves = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local nodes, addresses, leaving = prefix .. 'nodes', prefix .. 'addresses', prefix .. 'leaving'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- needs: full
local function list(min, max)
  return redis.call('ZRANGE', nodes, string.format('%.0f', min), max, 'BYSCORE')
end

for _, gone in ipairs(list(0, string.format('(%.0f', now - 100 * lease))) do
  redis.call('ZREM', nodes, gone)
  redis.call('HDEL', addresses, gone)
  redis.call('SREM', leaving, gone)
end
redis.call('ZADD', nodes, string.format('%.0f', now + lease), node)
redis.call('HSET', addresses, node, address)
if leaves == '1' then
  redis.call('SADD', leaving, node)
end
local live = {}
for _, other in ipairs(list(now, '+inf')) do
  live[#live + 1] = other
  live[#live + 1] = redis.call('HGET', addresses, other) or ''
  live[#live + 1] = tostring(redis.call('SISMEMBER', leaving, other))
end
return {live, list(0, string.format('(%.0f', now))}
