-- needs: epoch
--
-- Returns the totals of the partition.
local found = redis.call('HMGET', prefix .. 'n',
  'bytes', 'messages', 'sessions', 'rooms', 'queued', 'dead', 'online')
for index = 1, 7 do
  found[index] = tonumber(found[index] or 0)
end
return found
