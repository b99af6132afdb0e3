-- Descriptions of those who hold the lock, for people.

local found = redis.call('ZRANGEBYSCORE', holders, '(' .. whole(now), '+inf')
local mutex_owner = redis.call('GET', mutex)
if mutex_owner then table.insert(found, mutex_owner) end
local descriptions = {}
for _, owner in ipairs(found) do
  local known = redis.call('HGET', about, owner)
  table.insert(descriptions, string.match(known or '', '^%d+ %d+ (.*)$') or ('owner ' .. owner))
end
return descriptions
