-- What the partition has is what the caller knows: the last argument is the epoch that it believes
-- in. Another one, or none: the partition has lost its data.
local epoch = redis.call('HGET', prefix .. 'n', 'epoch')
if epoch ~= ARGV[#ARGV] then
  return 'LOST'
end
