-- needs: epoch
--
-- A player's session, or all of them without an id (''): ids and records.
local sessions = prefix .. 's:' .. ARGV[1]
if ARGV[2] == '' then
  return redis.call('HGETALL', sessions)
end
local record = redis.call('HGET', sessions, ARGV[2])
return record and {ARGV[2], record} or {}
