-- Gives back whatever an owner has, and tells those who wait. May be repeated.
-- ARGV: owner

local owner = ARGV[1]
local left = redis.call('ZREM', queue, owner) + redis.call('ZREM', holders, owner)
redis.call('ZREM', waiters, owner)
redis.call('HDEL', about, owner)
if redis.call('GET', mutex) == owner then
  redis.call('DEL', mutex)
  left = left + 1
end
if left > 0 then
  redis.call('PUBLISH', channel, 'left')
end
return left
