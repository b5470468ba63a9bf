-- needs: epoch, mailbox, keys
--
-- Forgets messages, keys and players whose time is over: limits, outbox, now, how many mailboxes,
-- owners of keys and players at once, and how many messages. Returns 1 when there may be more, else
-- 0, and losses.
local now, most, left = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local more = 0

local function due(name, until_)
  local found = redis.call('ZRANGE', prefix .. name, '-inf', string.format('(%.17g', until_),
    'BYSCORE', 'LIMIT', 0, most)
  if #found == most then
    more = 1
  end
  return found
end

if retention > 0 then
  for _, true_id in ipairs(due('old', now - retention)) do
    if left <= 0 then
      break
    end
    local box = open_mailbox(true_id)
    if box then
      local before = box.count
      trim(box, now, left)
      left = left - before + box.count
      save_mailbox(box)
      if box.count > 0 then
        redis.call('ZADD', prefix .. 'old', box.oldest, true_id)
      end
    else
      redis.call('ZREM', prefix .. 'old', true_id)
    end
  end
end
if left <= 0 then
  more = 1
end
for _, owner in ipairs(due('ko', now - window)) do
  local oldest = forget_old_keys(owner, now)
  if oldest and oldest < now - window then
    more = 1
  end
end
local spare = redis.call('SPOP', prefix .. 'spare', most)
if #spare == most then
  more = 1
end
for _, true_id in ipairs(spare) do
  local player = prefix .. 'p:' .. true_id
  local why = redis.call('HMGET', player, 'box', 'perm', 'rooms')
  local _, count = unpack_box(why[1])
  if why[1] and not why[2] and count == 0 and tonumber(why[3] or 0) == 0
    and redis.call('EXISTS', prefix .. 's:' .. true_id, prefix .. 'k:' .. true_id) == 0
    and redis.call('HEXISTS', prefix .. 'b', true_id) == 0 then
    redis.call('DEL', player, prefix .. 'm:' .. true_id, prefix .. 'sk:' .. true_id,
      prefix .. 'r:' .. true_id)
    redis.call('ZREM', prefix .. 'known', true_id)
    redis.call('ZREM', prefix .. 'reclaim', true_id)
  end
end
return {more, unpack(losses() or {})}
