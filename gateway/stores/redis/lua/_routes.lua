-- Routes. `r:T` has the nodes at which a player has connections, and how many.

-- Tells the other nodes on which a player has connections; returns how many these are.
local function tell_routes(true_id, node, make_text)
  local key = prefix .. 'r:' .. true_id
  local routes = redis.call('HGETALL', key)
  local remote, text = 0, nil
  for index = 1, #routes, 2 do
    local other = routes[index]
    if other ~= node then
      text = text or make_text()
      if tell(other, text) > 0 then
        remote = remote + tonumber(routes[index + 1])
      else
        redis.call('HDEL', key, other)
        total('pruned', 1)
      end
    end
  end
  return remote
end

-- Returns how many connections a player has at other nodes: at those that listen, the others died.
local function count_remote(true_id, node)
  local routes = redis.call('HGETALL', prefix .. 'r:' .. true_id)
  local remote = 0
  for index = 1, #routes, 2 do
    local other = routes[index]
    if other ~= node
      and redis.call('PUBSUB', 'SHARDNUMSUB', prefix .. 'n:' .. other)[2] > 0 then
      remote = remote + tonumber(routes[index + 1])
    end
  end
  return remote
end
