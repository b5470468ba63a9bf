-- What every script begins with.
--
-- KEYS[1] is the prefix of a partition, and no key itself: while a Cluster moves the partition's
-- slot, a call is then redirected before the script has begun, and never sees half of the keys.

local prefix = KEYS[1]

-- Changes a total of the partition, and returns what it has become.
local function total(name, by)
  return redis.call('HINCRBY', prefix .. 'n', name, by)
end

-- What one node tells another: the kind, and each field with its length before it.
local function payload_of(kind, fields)
  local parts = {kind}
  for index, value in ipairs(fields) do
    local field = tostring(value)
    parts[index + 1] = struct.pack('>I4c0', #field, field)
  end
  return table.concat(parts)
end

local function payload(kind, ...)
  return payload_of(kind, {...})
end

-- Tells a node, and returns how many heard it: 0 when it listens no more.
local function tell(node, text)
  return redis.call('SPUBLISH', prefix .. 'n:' .. node, text)
end
