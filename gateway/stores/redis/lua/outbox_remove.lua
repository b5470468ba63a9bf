-- needs: epoch
--
-- Forgets webhooks that were sent: the entry and the id of each. An entry with another id is another
-- webhook: the server has lost the one that was sent.
local gone = 0
for index = 1, #ARGV - 1, 2 do
  local entry = redis.call('XRANGE', prefix .. 'o', ARGV[index], ARGV[index])[1]
  if entry and entry[2][2] == ARGV[index + 1] then
    gone = gone + redis.call('XDEL', prefix .. 'o', ARGV[index])
  end
end
if gone > 0 then
  total('queued', -gone)
end
return gone
