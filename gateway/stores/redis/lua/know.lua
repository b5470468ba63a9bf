-- needs: epoch, players
--
-- Makes players known for good ('1'), or no longer ('0'); the players follow.
for index = 2, #ARGV - 1 do
  local true_id = ARGV[index]
  if ARGV[1] == '1' then
    know_player(true_id)
    redis.call('HSET', prefix .. 'p:' .. true_id, 'perm', 1)
  elseif redis.call('HDEL', prefix .. 'p:' .. true_id, 'perm') == 1 then
    may_be_forgotten(true_id)
  end
end
return 1
