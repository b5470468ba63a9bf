-- needs: presence
--
-- Players who may be nowhere: when they are gone then, and the players. Without any, those who
-- were reported online and are not.
local due = ARGV[1]
local function expect(true_id)
  if redis.call('EXISTS', prefix .. 'v:' .. true_id) == 0 then
    redis.call('ZADD', prefix .. 'away', 'NX', due, true_id)
  end
end
for index = 2, #ARGV - 1 do
  expect(ARGV[index])
end
if #ARGV == 2 then
  for _, true_id in ipairs(redis.call('ZDIFF', 2, prefix .. 'here', prefix .. 'online')) do
    expect(true_id)
  end
end
