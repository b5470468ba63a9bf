-- Returns how a node is told of a message that was stored for a player with connections there:
-- lengths, numbers, and what has these lengths. See `decode_messages` in bus.py.
local function message_text(true_id, epoch, offset, nonce, now, skip, body)
  return struct.pack('>HHHIddd', #true_id, #epoch, #skip, #body, offset, nonce, now)
    .. true_id .. epoch .. skip .. body
end
