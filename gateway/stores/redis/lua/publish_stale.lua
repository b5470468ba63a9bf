-- needs: epoch
--
-- Messages to rooms that have been under way for long: for how many microseconds, how many of them
-- at most. Returns number and room of each, the oldest first.
local time = redis.call('TIME')
local before = time[1] * 1000000 + time[2] - tonumber(ARGV[1])
return redis.call('ZRANGE', prefix .. 'gu', '-inf', string.format('%.0f', before), 'BYSCORE',
  'LIMIT', 0, ARGV[2])
