-- needs: epoch, outbox
--
-- Looks through webhooks that were given up: the outbox, 'retry' or 'delete', after which entry, at
-- how many entries, and a webhook's id, '' for all. Those that are retried wait again, under their
-- ids and behind all others, as far as there is room. Returns how many that were, whether there was
-- no room, the last entry looked at ('' if there are no more), and what was written to the outbox.
local outbox, retry, id = open_outbox(1), ARGV[5] == 'retry', ARGV[8]
local entries = redis.call('XRANGE', prefix .. 'od', '(' .. ARGV[6], '+', 'COUNT', ARGV[7])
local done, full, last = 0, 0, ''
for _, entry in ipairs(entries) do
  last = entry[1]
  local fields = entry[2]
  if id == '' or fields[2] == id then
    if retry and outbox.most > 0 and total('queued', 0) >= outbox.most then
      full = 1
    else
      if retry then
        -- Reason and time of the end are the last fields.
        redis.call('XADD', prefix .. 'o', string.format('%d-0', total('webhook', 1)),
          unpack(fields, 1, #fields - 4))
        total('queued', 1)
        outbox.added = outbox.added + 1
      end
      redis.call('XDEL', prefix .. 'od', last)
      total('dead', -1)
      done = done + 1
    end
  end
end
if #entries < tonumber(ARGV[7]) then
  last = ''
end
local added, given_up = close_outbox(outbox)
return {done, full, last, added, given_up}
