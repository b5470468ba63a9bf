-- needs: presence, full
--
-- Keeps what a node says of players: the outbox, the grace, then for each player the id, an entry
-- or '', since when, and '1' if they have left. Returns the version, webhooks written and given up,
-- and for each player how they are and the tabs that are hidden though they were new.
local outbox, grace = open_outbox(1), tonumber(ARGV[5])
local answers = {}
for index = 6, #ARGV - 1, 4 do
  local player, now = open_player(ARGV[index]), tonumber(ARGV[index + 2])
  local entry, adopted = nil, {}
  if ARGV[index + 1] ~= '' then
    entry = cmsgpack.unpack(ARGV[index + 1])
    adopted = place_tabs(player, outbox.node, entry)
  end
  put_entry(player, outbox.node, entry)
  update_player(outbox, player, outbox.node, now, grace, ARGV[index + 3] == '1')
  answers[#answers + 1] = {player.seen and cmsgpack.pack(player.seen) or '', unpack(adopted)}
end
local added, full = close_outbox(outbox)
return {version_now(), added, full, unpack(answers)}
