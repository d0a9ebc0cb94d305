-- Takes items from windows and counts a request as in flight, atomically. Times are in microseconds, of this server.
--
-- KEYS: a list for each window; then a sorted set, if the request counts as in flight.
-- ARGV: the number of windows, the number of runs of items, the limit in flight (0: not counted), the duration of the lease, the lease;
--       for each window: its limit, its length, the owed admissions, 1 if it may refuse, the type that it counts (0: all);
--       for each run: its type, the number of items.
-- Answer: the time; 0 if too many are in flight, and then nothing else was done; the number in flight;
--       for each run: the number of granted items;
--       for each window: the remaining quota, the time until an item may come, the time until the whole limit is free.
--
-- A window is a list of admissions, oldest first: "TIME COUNT SUM", where SUM counts all admissions since the list began. So the
-- first and last entry determine the count of the window, and the first is found by bisection.

local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local windows, runs, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local function text(number)
  return string.format('%.0f', number)
end

local in_flight, held = KEYS[windows + 1], 0
if most > 0 then
  held = redis.call('ZCOUNT', in_flight, '(' .. text(clock), '+inf')
  if held >= most then
    return {clock, 0, held}
  end
end

local function entry(key, index)
  local at, count, sum = string.match(redis.call('LINDEX', key, index), '^(%d+) (%d+) (%d+)$')
  return tonumber(at), tonumber(count), tonumber(sum)
end

-- The index of the first entry for which `good` is true; it is true for all entries after one, and for the last.
local function first(key, last, good)
  if good(entry(key, 0)) then
    return 0
  end
  local bad, step = 0, 1
  while bad + step < last and not good(entry(key, bad + step)) do
    bad = bad + step
    step = step * 2
  end
  local found = math.min(bad + step, last)
  while found - bad > 1 do
    local middle = math.floor((bad + found) / 2)
    if good(entry(key, middle)) then
      found = middle
    else
      bad = middle
    end
  end
  return found
end

local kept = {}
for i = 1, windows do
  local a = (i - 1) * 5 + 5
  local w = {
    key = KEYS[i],
    limit = tonumber(ARGV[a + 1]),
    length = tonumber(ARGV[a + 2]),
    binds = ARGV[a + 4] == '1',
    of = tonumber(ARGV[a + 5]),
    now = clock,
    used = 0,
    sum = 0,
    first = 0,
  }
  local size = redis.call('LLEN', w.key)
  if size > 0 then
    local newest, _, sum = entry(w.key, -1)
    -- If the clock was set back, time stands still here.
    w.now = math.max(clock, newest)
    w.sum = sum
    w.newest = newest
    local function counts(at)
      return at + w.length > w.now
    end
    if counts(newest) then
      w.first = first(w.key, size - 1, counts)
      local oldest, count, sum_there = entry(w.key, w.first)
      w.oldest = oldest
      w.used = sum - sum_there + count
    else
      w.first = size
    end
  end
  w.room = math.max(0, w.limit - w.used)
  w.taken = math.min(tonumber(ARGV[a + 3]), w.room)
  w.left = w.room - w.taken
  kept[i] = w
end

local answer, granted = {clock, 1, held}, 0
for run = 1, runs do
  local a = windows * 5 + (run - 1) * 2 + 5
  local of, count = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  for _, w in ipairs(kept) do
    if w.binds and (w.of == 0 or w.of == of) then
      count = math.min(count, w.left)
    end
  end
  for _, w in ipairs(kept) do
    if w.of == 0 or w.of == of then
      w.left = math.max(0, w.left - count)
      w.taken = math.min(w.room, w.taken + count)
    end
  end
  granted = granted + count
  answer[#answer + 1] = count
end

if most > 0 and (runs == 0 or granted > 0) then
  local lapses = clock + tonumber(ARGV[4])
  redis.call('ZREMRANGEBYSCORE', in_flight, '-inf', text(clock))
  redis.call('ZADD', in_flight, text(lapses), ARGV[5])
  redis.call('PEXPIREAT', in_flight, text(math.ceil(lapses / 1000)))
  answer[3] = held + 1
end

for _, w in ipairs(kept) do
  if w.taken > 0 then
    if w.first > 0 then
      redis.call('LTRIM', w.key, w.first, -1)
    end
    w.sum = w.sum + w.taken
    redis.call('RPUSH', w.key, text(w.now) .. ' ' .. text(w.taken) .. ' ' .. text(w.sum))
    redis.call('PEXPIREAT', w.key, text(math.ceil((w.now + w.length) / 1000)))
    w.newest = w.now
    if w.used == 0 then
      w.oldest = w.now
    end
    w.used = w.used + w.taken
  end
  local remaining, wait, full = math.max(0, w.limit - w.used), 0, 0
  if w.used > 0 then
    full = w.newest + w.length - clock
  end
  if remaining == 0 then
    local leaves = w.oldest
    if w.used > w.limit then
      -- The limit was lowered, so more than one admission must expire.
      local until_sum = w.sum - w.limit + 1
      local function enough(_, _, sum)
        return sum >= until_sum
      end
      leaves = entry(w.key, first(w.key, redis.call('LLEN', w.key) - 1, enough))
    end
    wait = leaves + w.length - clock
  end
  answer[#answer + 1] = remaining
  answer[#answer + 1] = wait
  answer[#answer + 1] = full
end
return answer
