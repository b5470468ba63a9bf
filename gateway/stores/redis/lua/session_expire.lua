-- needs: sessions
--
-- Forgets what has outlived its time: now, the oldest `last_seen` and the oldest revocation that
-- count, how many sessions and bans at most, the live nodes. Sessions of other nodes have no
-- connection from now on. Returns 1 when there may be more, and the number of the newest webhook.
local now, oldest, left, live = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[5]

each_stranded(live, function(true_id, id)
  local session = read_session(true_id, id)
  if tonumber(session.last_seen) < tonumber(now) then
    -- It was here until its node died, lately.
    session.last_seen = now
  end
  move_session(true_id, id, session, '')
  write_session(true_id, id, session)
  left = left - 1
  return left > 0
end)
while left > 0 do
  local member = redis.call('ZRANGE', prefix .. 'idle', 0, 0)[1]
  if not member then
    break
  end
  local true_id, id = split_idle(member)
  local session = read_session(true_id, id)
  if tonumber(session.last_seen) >= oldest then
    break
  end
  drop_session(true_id, id, session)
  left = left - 1
end
local ended = left > 0
  and redis.call('ZRANGE', prefix .. 'bz', '-inf', now, 'BYSCORE', 'LIMIT', 0, left) or {}
for _, true_id in ipairs(ended) do
  redis.call('ZREM', prefix .. 'bz', true_id)
  redis.call('HDEL', prefix .. 'b', true_id)
  may_be_forgotten(true_id)
end
redis.call('ZREMRANGEBYSCORE', prefix .. 'x', '-inf', '(' .. ARGV[3])
return {left > #ended and 0 or 1, total('webhook', 0)}
