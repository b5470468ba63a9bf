-- needs: epoch, kept
--
-- Returns the totals of the partition.
local found = redis.call('HMGET', prefix .. 'n',
  'sessions', 'rooms', 'queued', 'dead', 'online', 'pruned')
local bytes, messages = read_kept()
local totals = {bytes, messages}
for index = 1, 6 do
  totals[index + 2] = tonumber(found[index] or 0)
end
totals[9] = redis.call('ZCARD', prefix .. 'online')
return totals
