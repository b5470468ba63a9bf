-- A node wants the duties of this partition for so many milliseconds, 0: no longer. Returns 1 if it
-- has them.
-- fleeting
local node, lease = ARGV[1], tonumber(ARGV[2])
local owner = redis.call('GET', prefix .. 'own')
if owner and owner ~= node then
  return 0
end
-- needs: full
if lease > 0 then
  redis.call('SET', prefix .. 'own', node, 'PX', lease)
  return 1
end
if owner then
  redis.call('DEL', prefix .. 'own')
end
return 0
