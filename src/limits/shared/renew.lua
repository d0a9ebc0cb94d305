-- Renews the leases of requests that are still in flight, and restores leases that were lost.
--
-- KEYS: the sorted set. ARGV: the duration in microseconds; the leases.

local time = redis.call('TIME')
local lapses = time[1] * 1000000 + time[2] + tonumber(ARGV[1])
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], string.format('%.0f', lapses), ARGV[i])
end
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil(lapses / 1000)))
return #ARGV - 1
