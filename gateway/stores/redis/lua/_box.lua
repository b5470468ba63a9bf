-- The state of a mailbox is one field of `p:T`, `box`: it is read and written with each message.
-- Eight bytes each for `head`, `count` and `size` of the messages, and `oldest`: the time of the
-- oldest message, or earlier; 0 without any. It is exact again when a message might be too old.

-- What is not there is an empty mailbox.
local function unpack_box(box)
  if not box then
    return 0, 0, 0, 0
  end
  return struct.unpack('>dddd', box)
end

local function pack_box(head, count, size, oldest)
  return struct.pack('>dddd', head, count, size, oldest)
end
