-- needs: rooms
--
-- Takes a player out of a room: room, player, the player's partition, who asks. Returns what join
-- returns.
local room, player = ARGV[1], ARGV[2]
local members = prefix .. 'g:' .. room
local number = redis.call('HGET', members, player)
local count = redis.call('HLEN', members)
if not number then
  return {0, tonumber(redis.call('GET', prefix .. 'rv') or 0), count, '0'}
end
count = count - 1
-- First: without memory Redis refuses this, and nothing must have been done by then.
local version = room_changed(room, ARGV[4], '-', player, number, count)
redis.call('HDEL', members, player)
if redis.call('HINCRBY', prefix .. 'gc:' .. room, ARGV[3], -1) <= 0 then
  redis.call('HDEL', prefix .. 'gc:' .. room, ARGV[3])
end
if count == 0 then
  redis.call('SREM', prefix .. 'rooms', room)
  total('rooms', -1)
end
drop_empty_room(room)
return {1, version, count, number}
