-- needs: sessions
--
-- When the session was seen last that has been without connection for longest: the dead nodes, and
-- whether to drop it ('1'). Returns '' when all have one.
local true_id, id = longest_idle(ARGV[1])
if not true_id then
  return ''
end
local session = read_session(true_id, id)
if ARGV[2] == '1' then
  drop_session(true_id, id, session)
end
return session.last_seen
