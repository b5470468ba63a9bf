-- needs: epoch, box
--
-- Reads messages: player, the offset after which, how many, how many bytes (0: no limit; one
-- always fits). Returns the head, where the hole is and how large ('' if there is none), and the
-- messages as XRANGE has them.
local overhead, step = 160, 32
local true_id, limit, max_bytes = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local player = redis.call('HMGET', prefix .. 'p:' .. true_id,
  'box', 'hole_after', 'hole_lost')
local head, count = unpack_box(player[1])
local found = {head, player[2] or '', player[3] or ''}
if tonumber(ARGV[2]) >= head then
  return found
end
local size, left = 0, limit
local from = math.max(tonumber(ARGV[2]) + 1, head - count + 1)
while left > 0 do
  local wanted = math.min(left, step)
  local page = redis.call('XRANGE', prefix .. 'm:' .. true_id, from, '+', 'COUNT', wanted)
  for _, entry in ipairs(page) do
    size = size + overhead + #entry[2][2]
    if max_bytes > 0 and size > max_bytes and #found > 3 then
      return found
    end
    found[#found + 1] = entry
    from = '(' .. entry[1]
  end
  if #page < wanted then
    break
  end
  left = left - wanted
end
return found
