-- needs: epoch, box
--
-- Whether a client's place in a mailbox is still one: player, offset, nonce of the message there
-- ('' if that is not known), again and again. Returns the head for each, -1 if the message at that
-- place is another one or was lost. Of one that has been trimmed since nobody can tell.
local found = {}
for index = 1, #ARGV - 1, 3 do
  local true_id, offset, nonce = ARGV[index], ARGV[index + 1], ARGV[index + 2]
  local head = unpack_box(redis.call('HGET', prefix .. 'p:' .. true_id, 'box'))
  if head < tonumber(offset) then
    head = -1
  elseif nonce ~= '' then
    local entry = redis.call('XRANGE', prefix .. 'm:' .. true_id, offset, offset, 'COUNT', 1)[1]
    if entry and entry[1] ~= offset .. '-' .. nonce then
      head = -1
    end
  end
  found[#found + 1] = head
end
return found
