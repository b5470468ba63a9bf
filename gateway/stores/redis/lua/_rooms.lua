-- needs: epoch
--
-- Rooms. `g:R` has a room's members and their numbers, `gc:R` how many are in each partition.
-- `gs:R` is its state: the `last` number given, and the `version` of the partition's memberships
-- (`rv`) when they changed here last. `gl:R` has the messages under way by their numbers, `gu`
-- numbers and rooms of all; `gp:R` has the number of the last message for each partition. `rooms`
-- has all rooms.

-- The next number of a room, for a member or a message: microseconds, or one more than the last.
-- It is higher than all before, even if those were forgotten, or lost in a failover.
local function next_of_room(room)
  local time = redis.call('TIME')
  local number = time[1] * 1000000 + time[2]
  local last = tonumber(redis.call('HGET', prefix .. 'gs:' .. room, 'last') or 0)
  if number <= last then
    number = last + 1
  end
  local text = string.format('%.0f', number)
  redis.call('HSET', prefix .. 'gs:' .. room, 'last', text)
  return text
end

-- Counts a change of a room's members, and tells all nodes. Returns its version.
local function room_changed(room, by, sign, player, number, count)
  local version = redis.call('INCR', prefix .. 'rv')
  redis.call('HSET', prefix .. 'gs:' .. room, 'version', version)
  redis.call('SPUBLISH', prefix .. 'all',
    payload('g', epoch, version, by, sign, room, player, number, count))
  return version
end

-- Forgets a room that has no members, once no message to it is under way.
local function drop_empty_room(room)
  if redis.call('EXISTS', prefix .. 'g:' .. room, prefix .. 'gl:' .. room) == 0 then
    redis.call('DEL', prefix .. 'gs:' .. room, prefix .. 'gc:' .. room, prefix .. 'gp:' .. room,
      prefix .. 'rn:' .. room)
  end
end

-- All members and their numbers, or '' for a node that has them all: it knows this version.
local function members_unless_known(room, known_version)
  local version = redis.call('HGET', prefix .. 'gs:' .. room, 'version') or 0
  if tonumber(version) <= tonumber(known_version) then
    return ''
  end
  return redis.call('HGETALL', prefix .. 'g:' .. room)
end
