-- needs: rooms, keys
--
-- Gives a message to a room its number, and notes that it is under way: limits, outbox, room,
-- sender ('' for none), now, the version of the memberships that the node has, the message, how
-- many may be under way, '1' to look only whether it may be sent, and owner and key, if there is
-- one. Returns why it is not, or its number, all members unless the node has them, and for each
-- partition with members its number and that of the last message before this one. Why not:
-- 'STRANGER', 'BUSY', or what known_key says: the id under the key is '#' and its number while it
-- is under way, then that of the sender's copy.
local room, sender, ts, log = ARGV[6], ARGV[7], ARGV[8], prefix .. 'gl:' .. ARGV[6]
local owner, key = nil, nil
if #ARGV > 13 then
  owner, key = ARGV[13], ARGV[14]
end
if sender ~= '' and redis.call('HEXISTS', prefix .. 'g:' .. room, sender) == 0 then
  return 'STRANGER'
end
if owner then
  local known = known_key(owner, key, 'r' .. room, tonumber(ts))
  if known then
    return known
  end
end
if redis.call('HLEN', log) >= tonumber(ARGV[11]) then
  return 'BUSY'
end
if ARGV[12] == '1' then
  return 'OK'
end
local partitions = redis.call('HKEYS', prefix .. 'gc:' .. room)
local number = '0'
local targets, noted, marks = {}, {}, {}
if #partitions > 0 then
  number = next_of_room(room)
  local before = redis.call('HMGET', prefix .. 'gp:' .. room, unpack(partitions))
  for index, partition in ipairs(partitions) do
    local last = before[index] or '0'
    targets[2 * index - 1], targets[2 * index] = partition, last
    marks[2 * index - 1], marks[2 * index] = partition, number
    noted[index] = partition .. ':' .. last
  end
  redis.call('HSET', prefix .. 'gp:' .. room, unpack(marks))
  redis.call('HSET', log, number, table.concat(noted, ',') .. '\n' .. ARGV[10])
  redis.call('ZADD', prefix .. 'gu', number, number .. ' ' .. room)
end
if owner then
  -- With nobody to get it, it has arrived.
  remember_key(owner, key, ts, number == '0' and '' or '#' .. number, 'r' .. room)
end
return {number, members_unless_known(room, ARGV[9]), targets}
