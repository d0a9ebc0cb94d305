-- Reports that this node is alive; returns how many are, and whether this server has lost its data. Times are in microseconds, of
-- this server.
--
-- KEYS: a sorted set of nodes; a marker, "RUN SINCE LOST".
-- ARGV: the node; for how long it counts as alive; the server's run id; the run id that the node knew before ("": none).
-- Answer: the time; the number of live nodes; since when the server has kept its data; 1 if it lost data before that.

local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local lapse = tonumber(ARGV[2])
local run, known = ARGV[3], ARGV[4]

local function text(number)
  return string.format('%.0f', number)
end

redis.call('ZADD', KEYS[1], text(clock), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(clock - lapse))
redis.call('PEXPIREAT', KEYS[1], text(math.ceil((clock + lapse) / 1000)))

local marker = redis.call('GET', KEYS[2])
local marked, since, lost = nil, text(clock), '0'
if marker then
  marked, since, lost = string.match(marker, '^(%S+) (%d+) ([01])$')
end
if marked ~= run then
  -- A marker of another run is from a snapshot or a replica, which may be behind. A missing marker is no loss if no run was known.
  since = text(clock)
  lost = (marker or known ~= '') and '1' or '0'
elseif known ~= '' and known ~= run then
  lost = '1'
end
redis.call('SET', KEYS[2], run .. ' ' .. since .. ' ' .. lost, 'EX', 86400)
return {clock, redis.call('ZCARD', KEYS[1]), tonumber(since), tonumber(lost)}
