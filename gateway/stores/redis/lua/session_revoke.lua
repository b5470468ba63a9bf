-- needs: sessions, outbox, full
--
-- Forgets a session, and remembers that it was revoked: the outbox, then player, id, now, why, how
-- many revocations are remembered, the webhook's data. The node that has its connection is told.
-- Returns what was written to the outbox, and whether an older revocation had to go.
local outbox = open_outbox(1)
local true_id, id, now, reason = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local session = read_session(true_id, id)
if session then
  if session.node ~= '' and session.node ~= outbox.node then
    tell(session.node, payload('x', true_id, id, reason))
  end
  drop_session(true_id, id, session)
  webhook(outbox, 'session.revoked', true_id, now, ARGV[10])
end
local full = remember_revocation('s:' .. id, now, tonumber(ARGV[9]))
local added, given_up = close_outbox(outbox)
return {added, given_up, full}
