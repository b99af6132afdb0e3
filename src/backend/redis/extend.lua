-- Extends a lease that is still ours.
-- ARGV: owner, ttl in ms, limit. Answers 1, or 0 if the lock is another's or nobody's.

local owner, ttl = ARGV[1], tonumber(ARGV[2])
if tonumber(ARGV[3]) == 1 then
  if redis.call('GET', mutex) ~= owner then return 0 end
  redis.call('PEXPIRE', mutex, ttl)
else
  local ends = redis.call('ZSCORE', holders, owner)
  if not ends or tonumber(ends) <= now then return 0 end
  redis.call('ZADD', holders, now + ttl, owner)
  keep(holders, ttl)
end
keep(about, ttl)
keep(limit_key, ttl)
return 1
