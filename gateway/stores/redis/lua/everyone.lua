-- needs: epoch
--
-- Returns players who may come back: after which number in `known` ('-inf': from the start), how
-- many. First the number of the last player looked at, '' when there are no more.
local from, limit = '(' .. ARGV[1], tonumber(ARGV[2])
local found = {''}
if ARGV[1] == '-inf' then
  from = '-inf'
end
-- Not everybody who is known comes back, and one call does not look at all.
local page = redis.call('ZRANGE', prefix .. 'known', from, '+inf', 'BYSCORE', 'LIMIT', 0,
  limit + 100, 'WITHSCORES')
for index = 1, #page, 2 do
  local true_id = page[index]
  if redis.call('HEXISTS', prefix .. 'p:' .. true_id, 'perm') == 1
    or redis.call('EXISTS', prefix .. 's:' .. true_id) == 1 then
    found[#found + 1] = true_id
  end
  if #found > limit or index + 1 == #page and index + 1 == 2 * (limit + 100) then
    found[1] = page[index + 1]
    break
  end
end
return found
