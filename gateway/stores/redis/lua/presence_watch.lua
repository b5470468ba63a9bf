-- needs: presence
--
-- A node watches players from now on: the node, the players. Returns the version and how they are.
local node = ARGV[1]
local answer = {version_now()}
for index = 2, #ARGV - 1 do
  local true_id = ARGV[index]
  redis.call('SADD', prefix .. 'w:' .. true_id, node)
  redis.call('SADD', prefix .. 'wn:' .. node, true_id)
  answer[index] = look_at(true_id)
end
redis.call('SADD', prefix .. 'pn', node)
return answer
