-- Common to all scripts: the keys of one lock, the server's clock, and when what is abandoned goes.

local mutex = KEYS[1]    -- string: the owner of a lock of limit 1, as redis-py's Lock has it
local holders = KEYS[2]  -- sorted set: owner of one of several places -> when its lease ends, in ms
local queue = KEYS[3]    -- sorted set: waiter -> its ticket
local waiters = KEYS[4]  -- sorted set: waiter -> until when it counts as alive, in ms
local about = KEYS[5]    -- hash: holder -> fencing token, slot and description
local limit_key = KEYS[6]
local tickets = KEYS[7]
local fence = KEYS[8]
local channel = KEYS[9]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A number as it is, not as Lua 5.1 would round it.
local function whole(number)
  return string.format('%.0f', number)
end

-- Bookkeeping outlives every lease that it is for, and goes some time after the last one. Never shortens.
local function keep(key, ttl)
  local left = redis.call('PTTL', key)
  if left >= 0 and left < 2 * ttl or left == -1 then
    redis.call('PEXPIRE', key, 2 * ttl)
  end
end

local function forget_expired()
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', holders, '-inf', now)) do
    redis.call('ZREM', holders, owner)
    redis.call('HDEL', about, owner)
  end
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', waiters, '-inf', now)) do
    redis.call('ZREM', waiters, owner)
    redis.call('ZREM', queue, owner)
  end
end
