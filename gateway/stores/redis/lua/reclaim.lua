-- needs: epoch, mailbox
--
-- Drops messages that nobody needs, so many bytes of them if there are: limits, outbox, bytes.
-- Returns the bytes that went.
local wanted, freed = tonumber(ARGV[6]), 0
for _ = 1, 1000 do
  local true_id = freed < wanted and redis.call('ZPOPMIN', prefix .. 'reclaim')[1]
  if not true_id then
    break
  end
  local box = open_mailbox(true_id)
  if box then
    drop_read(box)
    freed = freed + box.saved_size - box.size
    save_mailbox(box)
  end
end
return freed
