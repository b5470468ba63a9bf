-- needs: sessions, full
--
-- Keeps what a node says of a session: the node, player, id, the version that it knows (0: another
-- connection has the session by now), `confirmed`, `last_seen`, whether it is in use there ('1') or
-- not ('0'). When another node has the session, only what was confirmed counts, for the player.
local node, true_id, id, version = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local confirmed = tonumber(ARGV[5])
local session = version > 0 and read_session(true_id, id)
if session and session.version <= version and (session.node == '' or session.node == node) then
  session.confirmed = math.max(session.confirmed, confirmed)
  if tonumber(ARGV[6]) > tonumber(session.last_seen) then
    session.last_seen = ARGV[6]
  end
  move_session(true_id, id, session, ARGV[7] == '1' and node or '')
  write_session(true_id, id, session)
end
confirmed_up_to(true_id, confirmed)
return 1
