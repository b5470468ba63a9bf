-- needs: presence
--
-- Players who are not offline, after a place and so many at most: each with place and how they are.
local page = redis.call(
  'ZRANGEBYSCORE', prefix .. 'online', '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local answer = {}
for index = 1, #page, 2 do
  answer[#answer + 1] = {page[index], page[index + 1], look_at(page[index])}
end
return answer
