-- needs: sessions
--
-- Forgets what has outlived its time: now, the oldest `last_seen` and the oldest revocation that
-- count, how many sessions and bans at most, the nodes that are alive ('*': all are) and those that
-- are dead: their sessions have no connection from now on. Returns 1 when there may be more, the
-- number of the newest webhook, and the nodes that have sessions here and are neither.
local now, oldest = ARGV[1], tonumber(ARGV[2])
local left, live, dead = tonumber(ARGV[4]), ARGV[5], ARGV[6]
local unknown = {}

for _, node in ipairs(busy_nodes()) do
  if is_in(dead, node) then
    local members = left > 0 and busy_at(node, left) or {}
    for _, member in ipairs(members) do
      local true_id, id = split_member(member)
      local session = read_session(true_id, id)
      if tonumber(session.last_seen) < tonumber(now) then
        -- It was here until its node died, lately.
        session.last_seen = now
      end
      move_session(true_id, id, session, '')
      write_session(true_id, id, session)
    end
    left = left - #members
  elseif live ~= '*' and not is_in(live, node) then
    unknown[#unknown + 1] = node
  end
end
while left > 0 do
  local member = redis.call('ZRANGE', prefix .. 'idle', 0, 0)[1]
  if not member then
    break
  end
  local true_id, id = split_member(member)
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
return {left > #ended and 0 or 1, total('webhook', 0), unknown}
