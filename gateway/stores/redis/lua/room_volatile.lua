-- Hands an event that is stored nowhere to members of a room at other nodes: this node, room, the
-- event, and who sent it ('' for the game) and their key, if it has one. Returns how many members
-- have connections there.
local node, room = ARGV[1], ARGV[2]
local key = prefix .. 'rn:' .. room
local routes = redis.call('HGETALL', key)
local members, text = 0, nil
for index = 1, #routes, 2 do
  local other = routes[index]
  if other ~= node then
    text = text or payload_of('r', {unpack(ARGV, 2)})
    if tell(other, text) > 0 then
      members = members + tonumber(routes[index + 1])
    else
      redis.call('HDEL', key, other)
    end
  end
end
return members
