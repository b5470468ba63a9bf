-- needs: sessions, outbox
--
-- Keeps a new session: the outbox, then player, id, record, the node that has its connection ('' for
-- none), now, when the token was signed that it comes from ('' if from none), the most that a player
-- and the partition may have (0 and '': no limit), the dead nodes, the webhook's data. Returns its
-- version and what was written to the outbox, or why not: 'CHANGED', or the limit that is reached,
-- 'PLAYER' or 'ALL'.
local outbox = open_outbox(1)
local true_id, id, node, now, issued_at = ARGV[5], ARGV[6], ARGV[8], ARGV[9], ARGV[10]
local of_player, of_all, dead = tonumber(ARGV[11]), ARGV[12], ARGV[13]
local sessions = prefix .. 's:' .. true_id

if redis.call('HEXISTS', sessions, id) == 1 then
  return 'CHANGED'
end
if node ~= '' then
  if is_banned(true_id, now) then
    return 'CHANGED'
  end
  if issued_at ~= '' then
    local since = redis.call('ZSCORE', prefix .. 'x', 'p:' .. true_id)
    if redis.call('ZSCORE', prefix .. 'x', 's:' .. id)
      or since and tonumber(issued_at) <= tonumber(since) then
      return 'CHANGED'
    end
  end
end
if of_player > 0 and redis.call('HLEN', sessions) >= of_player then
  local oldest, oldest_id
  local found = redis.call('HGETALL', sessions)
  for index = 1, #found, 2 do
    local other = cjson.decode(found[index + 1])
    if is_idle(other, dead) then
      other.seen = tonumber(other.last_seen)
      if not oldest or other.seen < oldest.seen
        or other.seen == oldest.seen and other.version < oldest.version then
        oldest, oldest_id = other, found[index]
      end
    end
  end
  if not oldest then
    return 'PLAYER'
  end
  drop_session(true_id, oldest_id, oldest)
elseif of_all ~= '' and total('sessions', 0) >= tonumber(of_all) then
  local other, other_id = longest_idle(dead)
  if not other then
    return 'ALL'
  end
  drop_session(other, other_id, read_session(other, other_id))
end
know_player(true_id)
local session = cjson.decode(ARGV[7])
session.version = next_number()
put_in(true_id, id, session, node)
write_session(true_id, id, session)
total('sessions', 1)
confirmed_up_to(true_id, session.confirmed)
webhook(outbox, 'session.new', true_id, now, ARGV[14])
return {session.version, close_outbox(outbox)}
