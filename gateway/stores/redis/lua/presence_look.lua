-- needs: presence
--
-- How players are: the version, then each of them.
local answer = {version_now()}
for index = 1, #ARGV - 1 do
  answer[index + 1] = look_at(ARGV[index])
end
return answer
