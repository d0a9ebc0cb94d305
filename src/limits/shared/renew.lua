-- Requests that are still in flight: their leases last for another while, and are there again if they were lost.
--
-- KEYS: the sorted set. ARGV: for how long, in microseconds; the leases.

local time = redis.call('TIME')
local lapses = time[1] * 1000000 + time[2] + tonumber(ARGV[1])
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], string.format('%.0f', lapses), ARGV[i])
end
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil(lapses / 1000)))
return #ARGV - 1
