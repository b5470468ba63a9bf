-- needs: epoch, outbox
--
-- Remembers who is online ('1') and who no longer is ('0'), and writes webhooks of what that
-- changes: the outbox, the time, then players, each with what is said of them. Returns what was
-- written to the outbox.
local outbox, now = open_outbox(1), ARGV[5]
for index = 6, #ARGV - 1, 2 do
  local true_id, online = ARGV[index], ARGV[index + 1] == '1'
  if redis.call(online and 'SADD' or 'SREM', prefix .. 'here', true_id) == 1 then
    webhook(outbox, online and 'player.online' or 'player.offline', true_id, now, '{}')
  end
end
return {close_outbox(outbox)}
