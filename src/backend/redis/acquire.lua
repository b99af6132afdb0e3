-- Takes the lock, or a place in its queue. May be repeated: an owner has one place and one grant.
-- ARGV: owner, ttl in ms, limit, description, queue_max (or -1), whether to wait (1 or 0)
-- Answers: {'granted', token, slot}, {'wait', ms until something ends, place}, {'busy'}, {'full'},
-- {'mismatch', limit in use}

local owner, ttl, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local description, queue_max, waits = ARGV[4], tonumber(ARGV[5]), ARGV[6] == '1'

forget_expired()

local mutex_owner = redis.call('GET', mutex)

local function grant_again()
  local known = redis.call('HGET', about, owner)
  local token, slot = string.match(known or '', '^(%d+) (%d+) ')
  return token and { 'granted', token, slot }
end

-- The answer to an earlier try was lost: the lease that it began goes on from now.
if mutex_owner == owner then
  redis.call('PEXPIRE', mutex, ttl)
  local again = grant_again()
  if again then return again end
elseif redis.call('ZSCORE', holders, owner) then
  redis.call('ZADD', holders, now + ttl, owner)
  local again = grant_again()
  if again then return again end
end

local held = redis.call('ZCARD', holders)
local queued = redis.call('ZCARD', queue)
local in_queue = redis.call('ZSCORE', queue, owner)

-- All must agree on the limit; the first one sets it. A bare key is a holder of limit 1.
local in_use = redis.call('GET', limit_key)
if mutex_owner and mutex_owner ~= owner then
  in_use = '1'
elseif held == 0 and (queued == 0 or queued == 1 and in_queue) then
  in_use = nil
end
if in_use and tonumber(in_use) ~= limit then
  return { 'mismatch', in_use }
end

if limit == 1 then
  held = (mutex_owner and mutex_owner ~= owner) and 1 or 0
end
if not in_queue then
  if queue_max >= 0 and held + queued >= queue_max then
    return { 'full' }
  end
  if not waits and held + queued >= limit then
    return { 'busy' }
  end
  redis.call('ZADD', queue, redis.call('INCR', tickets), owner)
end
redis.call('SET', limit_key, limit)
redis.call('ZADD', waiters, now + ttl, owner)

local place = redis.call('ZRANK', queue, owner)

local function lowest_free_slot()
  local taken = {}
  for _, holder in ipairs(redis.call('ZRANGE', holders, 0, -1)) do
    local slot = string.match(redis.call('HGET', about, holder) or '', '^%d+ (%d+) ')
    if slot then taken[tonumber(slot)] = true end
  end
  local slot = 0
  while taken[slot] do slot = slot + 1 end
  return slot
end

-- A counter, but never behind the clock: a server that has forgotten it doesn't begin at 1 again.
local function next_token()
  local last = tonumber(redis.call('GET', fence) or 0)
  local token = whole(math.max(last + 1, now))
  redis.call('SET', fence, token)
  return token
end

local answer
if place < limit - held then
  local slot = whole(limit == 1 and 0 or lowest_free_slot())
  local token = next_token()
  redis.call('ZREM', queue, owner)
  redis.call('ZREM', waiters, owner)
  if limit == 1 then
    redis.call('SET', mutex, owner, 'PX', ttl)
    redis.call('DEL', about)  -- of an earlier holder whose key has expired
  else
    redis.call('ZADD', holders, now + ttl, owner)
  end
  redis.call('HSET', about, owner, token .. ' ' .. slot .. ' ' .. description)
  answer = { 'granted', token, slot }
else
  -- Whose time ends first: a holder's or that of a waiter ahead.
  local first = ttl
  if limit == 1 then
    local left = redis.call('PTTL', mutex)
    if left >= 0 then first = math.min(first, left) end
  else
    local ends = redis.call('ZRANGE', holders, 0, 0, 'WITHSCORES')[2]
    if ends then first = math.min(first, ends - now) end
  end
  local ends = redis.call('ZRANGE', waiters, 0, 0, 'WITHSCORES')[2]
  if ends then first = math.min(first, ends - now) end
  answer = { 'wait', whole(math.max(first, 0)), whole(place) }
end

for _, key in ipairs({ holders, queue, waiters, about, limit_key }) do
  keep(key, ttl)
end
return answer
