-- What the mailboxes and keys of a partition take is one field of `n`, `kept`: it is read and
-- written with each message. Eight bytes each for the bytes and the number of messages.

local function unpack_kept(kept)
  if not kept then
    return 0, 0
  end
  return struct.unpack('>dd', kept)
end

local function read_kept()
  return unpack_kept(redis.call('HGET', prefix .. 'n', 'kept'))
end

local function write_kept(bytes, messages)
  redis.call('HSET', prefix .. 'n', 'kept', struct.pack('>dd', bytes, messages))
end

local function change_kept(by_bytes, by_messages)
  local bytes, messages = read_kept()
  write_kept(bytes + by_bytes, messages + by_messages)
end
