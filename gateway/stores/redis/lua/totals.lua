-- needs: epoch
--
-- Returns the totals of the partition.
local found = redis.call('HMGET', prefix .. 'n',
  'bytes', 'messages', 'sessions', 'rooms', 'queued', 'dead', 'online', 'pruned')
for index = 1, 8 do
  found[index] = tonumber(found[index] or 0)
end
found[9] = redis.call('ZCARD', prefix .. 'online')
return found
