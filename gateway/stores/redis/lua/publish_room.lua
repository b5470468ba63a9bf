-- needs: epoch, mailbox
--
-- Makes room for a message to members of a room: limits, outbox, now, its size, the bytes that it
-- takes elsewhere; then the members. Returns 1 if there is room, else 0, and losses.
local now, size, needed = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local boxes = {}
-- Without memory Redis refuses this, before anything is done, and not something in the middle.
total('order', 0)
for index = 9, #ARGV - 1 do
  local box = open_mailbox(ARGV[index])
  local is_full = false
  if box and refuse > 0 then
    is_full = limit_reached(box, size, now)
    save_mailbox(box)
  end
  if not is_full then
    boxes[#boxes + 1] = box
    needed = needed + size
  end
end
local found = has_room(boxes, size, needed, now)
return {found and 1 or 0, unpack(losses() or {})}
