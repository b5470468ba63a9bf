-- needs: epoch
--
-- All memberships: the version that the node has of them ('': none). Returns the version that is
-- here and, if it is another one, each room and its members with their numbers.
local version = redis.call('GET', prefix .. 'rv') or '0'
if version == ARGV[1] then
  return {version}
end
local rooms = {}
for _, room in ipairs(redis.call('SMEMBERS', prefix .. 'rooms')) do
  rooms[#rooms + 1] = room
  rooms[#rooms + 1] = redis.call('HGETALL', prefix .. 'g:' .. room)
end
return {version, rooms}
