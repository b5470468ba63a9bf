-- needs: sessions, full
--
-- Remembers that a player's tokens are worth nothing: player, now, how many revocations are
-- remembered. Returns whether an older revocation had to go.
return remember_revocation('p:' .. ARGV[1], ARGV[2], tonumber(ARGV[3]))
