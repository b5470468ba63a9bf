-- needs: epoch, box, routes
--
-- Looks at a mailbox: player, an offset (0: none), a session ('' for none), this node. Returns
-- whether the player is known, head, count, what they have confirmed, the nonce at the offset ('' if
-- it is not there), where the hole is and how large (''), how many connections the player has at
-- other nodes, and the offsets that the session passes over.
local true_id, offset, session, node = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local player = redis.call('HMGET', prefix .. 'p:' .. true_id,
  'box', 'confirmed', 'hole_after', 'hole_lost', 'skips')
local known = player[1] and 1 or redis.call('EXISTS', prefix .. 'k:' .. true_id)
local nonce = ''
if offset ~= '0' then
  local entry = redis.call('XRANGE', prefix .. 'm:' .. true_id, offset,
    offset .. '-18446744073709551615', 'COUNT', 1)[1]
  if entry then
    nonce = string.match(entry[1], '%-(%d+)$')
  end
end
local head, count = unpack_box(player[1])
local found = {known, head, count, tonumber(player[2] or 0), nonce, player[3] or '',
  player[4] or '', count_remote(true_id, node)}
if player[5] and session ~= '' then
  for _, member in ipairs(redis.call('ZRANGE', prefix .. 'sk:' .. true_id,
    head - count + 1, '+inf', 'BYSCORE')) do
    local colon = string.find(member, ':', 1, true)
    if string.sub(member, colon + 1) == session then
      found[#found + 1] = tonumber(string.sub(member, 1, colon - 1))
    end
  end
end
return found
