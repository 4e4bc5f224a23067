-- The bytes that each account's batches use of its allowance in the journal.
--
-- A batch is 'running', 'ended', or 'forgotten' if only its idempotency key is left. Each account
-- has a hash with the bytes of each batch ('b:' and its id) and of each state (its name), and for
-- each state a sorted set of its batches, by the time at which their keys expire. If one of these
-- is lost, its batches are not counted any more, and expire at the usual time.

local BATCH_BYTES, KEY_BYTES = 2048, 512   -- as in backends/space.py
local STATES = {'running', 'ended', 'forgotten'}
local MAX_BATCHES_PER_READ = 1000

local function bytes_key(account) return prefix .. 'bytes:' .. account end
local function state_key(state, account) return prefix .. state .. '_batches:' .. account end

local recorded = {}   -- account: its batches that this call has written to, as keys

local function add(account, state, bytes)
  if redis.call('HINCRBY', bytes_key(account), state, whole(bytes)) <= 0 then
    redis.call('HDEL', bytes_key(account), state)
  end
end

local function enter(account, batch, state, bytes, seconds)
  redis.call('HSET', bytes_key(account), 'b:' .. batch, whole(bytes))
  redis.call('ZADD', state_key(state, account), exact(now + seconds), batch)
  add(account, state, bytes)
  redis.call('EXPIRE', bytes_key(account), RUNNING_BATCH_SECONDS)
  redis.call('EXPIRE', state_key(state, account), RUNNING_BATCH_SECONDS)
end

local function bytes_of(account, batch)
  return tonumber(redis.call('HGET', bytes_key(account), 'b:' .. batch) or nil)
end

local function remove(account, batch, state)
  add(account, state, -(bytes_of(account, batch) or 0))
  redis.call('HDEL', bytes_key(account), 'b:' .. batch)
  redis.call('ZREM', state_key(state, account), batch)
end

-- Stop counting batches that have expired by now.
local function clean(account)
  for _, state in ipairs(STATES) do
    local set = state_key(state, account)
    repeat
      local gone, fields, bytes = redis.call(
        'ZRANGEBYSCORE', set, '-inf', exact(now), 'LIMIT', 0, MAX_BATCHES_PER_READ), {}, 0
      if #gone > 0 then
        for place, batch in ipairs(gone) do fields[place] = 'b:' .. batch end
        for _, each in ipairs(redis.call('HMGET', bytes_key(account), unpack(fields))) do
          bytes = bytes + tonumber(each or 0)
        end
        redis.call('HDEL', bytes_key(account), unpack(fields))
        redis.call('ZREM', set, unpack(gone))
        add(account, state, -bytes)
      end
    until #gone < MAX_BATCHES_PER_READ
  end
end

-- Return the bytes of the account's batches in each state.
local function taken(account)
  local sums = redis.call('HMGET', bytes_key(account), unpack(STATES))
  return tonumber(sums[1] or 0), tonumber(sums[2] or 0), tonumber(sums[3] or 0)
end

-- Return batches with attempts that have not ended at Replicate: recovery needs their tasks.
local function with_attempts()
  local batches = {}
  for _, record in each_record(key.permits) do batches[record.entry] = true end
  return batches
end

-- Delete the account's oldest ended batches until `excess` bytes are free, except those in `keep`.
local function forget_ended(account, excess, keep)
  if excess <= 0 then return end
  local open, ended, first = with_attempts(), state_key('ended', account), 0
  while excess > 0 do
    local oldest = redis.call('ZRANGE', ended, first, first, 'WITHSCORES')
    if #oldest == 0 then return end
    local batch, expires_at = oldest[1], tonumber(oldest[2])
    if open[batch] or keep[batch] then
      first = first + 1
    else
      excess = excess - (bytes_of(account, batch) or 0)
      remove(account, batch, 'ended')
      if journal.delete(batch, expires_at) then
        enter(account, batch, 'forgotten', KEY_BYTES, expires_at - now)
        excess = excess + KEY_BYTES
      end
    end
  end
end

local function excess(account)
  local running, ended, forgotten = taken(account)
  return running + ended + forgotten - journal_bytes
end

local function size_of(rows)
  local bytes = 0
  for _, row in ipairs(rows) do bytes = bytes + #row end
  return bytes
end

-- Return the bytes that a new batch counts as, from its fields as they are stored.
local function size_of_batch(fields)
  return BATCH_BYTES + size_of(fields.tasks) + #(fields.inputs or '') + #(fields.retried or '')
end

-- Make space for a batch; if there is not enough, return the bytes that it needs and those used by
-- running batches and by keys.
function space.make(fields)
  local account = fields.account
  clean(account)
  local needed, running, _, forgotten = size_of_batch(fields), taken(account)
  if running + forgotten + needed <= journal_bytes then
    forget_ended(account, excess(account) + needed, {})
    if excess(account) + needed <= 0 then return nil end
  end
  return {whole(needed), whole(running), whole(forgotten)}
end

local function note(account, batch)
  recorded[account] = recorded[account] or {}
  recorded[account][batch] = true
end

function space.begin(account, batch, fields)
  for _, state in ipairs(STATES) do  -- A restored batch may be listed.
    if redis.call('ZSCORE', state_key(state, account), batch) then remove(account, batch, state) end
  end
  enter(account, batch, 'running', size_of_batch(fields), RUNNING_BATCH_SECONDS)
  note(account, batch)
end

-- Count the results of a running batch.
function space.grow(account, batch, rows)
  local bytes = size_of(rows)
  if bytes == 0 or not bytes_of(account, batch) then return end
  redis.call('HINCRBY', bytes_key(account), 'b:' .. batch, whole(bytes))
  add(account, 'running', bytes)
  note(account, batch)
end

function space.finish(account, batch)
  local bytes = bytes_of(account, batch)
  if not bytes then return end
  remove(account, batch, 'running')
  enter(account, batch, 'ended', bytes, JOURNAL_SECONDS)
end

-- Delete older ended batches to compensate for this call's writes, which are never refused.
function space.settle()
  for account, batches in pairs(recorded) do
    if excess(account) > 0 then
      clean(account)
      forget_ended(account, excess(account), batches)
    end
  end
end
