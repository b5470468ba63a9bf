-- needs: presence
--
-- The memberships of these players have ended.
for index = 1, #ARGV - 1 do
  redis.call('SREM', prefix .. 'gone', ARGV[index])
end
