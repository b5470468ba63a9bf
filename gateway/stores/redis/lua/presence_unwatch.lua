-- needs: presence
--
-- A node watches players no more: the node, the players.
local node = ARGV[1]
for index = 2, #ARGV - 1 do
  redis.call('SREM', prefix .. 'w:' .. ARGV[index], node)
  redis.call('SREM', prefix .. 'wn:' .. node, ARGV[index])
end
