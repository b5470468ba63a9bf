-- needs: sessions, full
--
-- A node does not have a session's connection after all: the node, player, id.
local node, true_id, id = ARGV[1], ARGV[2], ARGV[3]
local session = read_session(true_id, id)
if not session or session.node ~= node then
  return 0
end
move_session(true_id, id, session, '')
write_session(true_id, id, session)
return 1
