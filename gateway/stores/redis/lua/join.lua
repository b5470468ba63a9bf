-- needs: rooms
--
-- Puts a player into a room: room, player, the player's partition, how many members the room may
-- have, how many rooms the partition, who asks. Returns the limit that is reached, or whether
-- anything has changed, version of the memberships here, members, the player's number.
local room, player = ARGV[1], ARGV[2]
local members = prefix .. 'g:' .. room
local number = redis.call('HGET', members, player)
local count = redis.call('HLEN', members)
if number then
  return {0, tonumber(redis.call('GET', prefix .. 'rv') or 0), count, number}
end
if count == 0 then
  if total('rooms', 0) >= tonumber(ARGV[5]) then
    return 'rooms.rooms'
  end
  redis.call('SADD', prefix .. 'rooms', room)
  total('rooms', 1)
elseif count >= tonumber(ARGV[4]) then
  return 'rooms.max_members'
end
number = next_of_room(room)
redis.call('HSET', members, player, number)
redis.call('HINCRBY', prefix .. 'gc:' .. room, ARGV[3], 1)
local version = room_changed(room, ARGV[6], '+', player, number, count + 1)
return {1, version, count + 1, number}
