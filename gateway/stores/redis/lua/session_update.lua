-- needs: sessions, full
--
-- Keeps what has changed in a session: player, id, the version it had, record, the node that has its
-- connection ('': it stays where it is). Returns its new version, 0 when there is no such session,
-- -1 when it has another version or its player is banned. The node that had the connection is told.
local true_id, id, node = ARGV[1], ARGV[2], ARGV[5]
local session = read_session(true_id, id)
if not session then
  return 0
end
local said = cjson.decode(ARGV[4])
if session.version ~= tonumber(ARGV[3])
  or node ~= '' and is_banned(true_id, said.last_seen) then
  return -1
end
session.generation, session.pid, session.start = said.generation, said.pid, said.start
session.version = next_number()
if node ~= '' then
  local before = session.node
  session.last_seen = said.last_seen
  move_session(true_id, id, session, node)
  if before ~= '' and before ~= node then
    tell(before, payload('f', true_id, id, session.version, 'taken_over'))
  end
end
write_session(true_id, id, session)
return session.version
