-- needs: sessions, full
--
-- A node says anew what it has: the node, then sessions of one player or several: player, id and
-- version of each. Routes are what they should be then. Returns the places of those that it has no
-- longer, the first is 1; of a player who is banned it has none.
local node, lost, counts = ARGV[1], {}, {}
local now = redis.call('TIME')[1]
for index = 2, #ARGV - 1, 3 do
  local true_id, id, version = ARGV[index], ARGV[index + 1], tonumber(ARGV[index + 2])
  local session = read_session(true_id, id)
  if is_banned(true_id, now) then
    lost[#lost + 1] = (index + 1) / 3
  elseif session and session.version == version and session.node == '' then
    -- It was taken for dead.
    move_session(true_id, id, session, node)
    write_session(true_id, id, session)
  elseif not session or session.version ~= version or session.node ~= node then
    lost[#lost + 1] = (index + 1) / 3
  end
  counts[true_id] = 0
end
for true_id in pairs(counts) do
  local routes = prefix .. 'r:' .. true_id
  for _, record in ipairs(redis.call('HVALS', prefix .. 's:' .. true_id)) do
    if cjson.decode(record).node == node then
      counts[true_id] = counts[true_id] + 1
    end
  end
  if counts[true_id] > 0 then
    redis.call('HSET', routes, node, counts[true_id])
  else
    redis.call('HDEL', routes, node)
  end
end
return lost
