-- needs: epoch
--
-- Looks after players when a node may have missed something: the node, then players, each with the
-- offset of the last message that the node has of them. Says anew how many of the player's
-- connections the node has. Returns for each player the head, and the nonce at that offset, '' if
-- there is no message.
local node = ARGV[1]
local found = {}
for index = 2, #ARGV - 2, 2 do
  local true_id, offset = ARGV[index], ARGV[index + 1]
  local connections = 0
  for _, record in ipairs(redis.call('HVALS', prefix .. 's:' .. true_id)) do
    if cjson.decode(record).node == node then
      connections = connections + 1
    end
  end
  if connections > 0 then
    redis.call('HSET', prefix .. 'r:' .. true_id, node, connections)
  else
    redis.call('HDEL', prefix .. 'r:' .. true_id, node)
  end
  local entry = redis.call('XRANGE', prefix .. 'm:' .. true_id, offset,
    offset .. '-18446744073709551615', 'COUNT', 1)[1]
  found[#found + 1] = tonumber(redis.call('HGET', prefix .. 'p:' .. true_id, 'head') or 0)
  found[#found + 1] = entry and string.match(entry[1], '%-(%d+)$') or ''
end
return found
