-- needs: rooms
--
-- What is under way to a room: room, the number of the last message that is wanted, the version of
-- the memberships that the node has. Returns all members unless the node has them, and then
-- numbers and messages, the oldest first: not all of very many, but the last one.
local room, last, log = ARGV[1], tonumber(ARGV[2]), prefix .. 'gl:' .. ARGV[1]
local numbers = {}
for _, number in ipairs(redis.call('HKEYS', log)) do
  if tonumber(number) <= last then
    numbers[#numbers + 1] = number
  end
end
table.sort(numbers, function(one, other)
  return tonumber(one) < tonumber(other)
end)
local found = {members_unless_known(room, ARGV[3])}
for index, number in ipairs(numbers) do
  if index <= 64 or index == #numbers then
    found[#found + 1] = number
    found[#found + 1] = redis.call('HGET', log, number)
  end
end
return found
