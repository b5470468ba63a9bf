-- A script that is about mailboxes or keys begins with these arguments: limits, and the four that
-- the outbox is opened with.

-- What a message counts beside its body, and what a key counts: OVERHEAD and KEY_BYTES.
local overhead, key_bytes = 160, 128
-- 0 means no limit; `room` is what the partition may have in all, -1 if there is no limit.
local max_messages, max_bytes, retention, refuse, room, window, most_keys =
  struct.unpack('>ddddddd', ARGV[1])
