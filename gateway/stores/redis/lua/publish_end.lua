-- needs: rooms
--
-- A message has reached all members of its room: room, its number, id of the sender's copy (''
-- for none), and owner and key, if there is one.
local room, number = ARGV[1], ARGV[2]
-- First: without memory Redis refuses this, and nothing must have been done by then.
if #ARGV > 5 then
  local keys, target = prefix .. 'k:' .. ARGV[4], ' r' .. room
  if redis.call('HGET', keys, ARGV[5]) == '#' .. number .. target then
    redis.call('HSET', keys, ARGV[5], ARGV[3] .. target)
  end
end
redis.call('HDEL', prefix .. 'gl:' .. room, number)
redis.call('ZREM', prefix .. 'gu', number .. ' ' .. room)
drop_empty_room(room)
return 1
