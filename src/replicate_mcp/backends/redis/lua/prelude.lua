-- The context of one call: its arguments, the time, and the keys.

-- Redis before 7 may be configured to replicate scripts instead of their effects; these scripts
-- read the time, so their effects have to be replicated.
if redis.replicate_commands then redis.replicate_commands() end

-- Args:
--   me: the calling process, as a holder.
--   sequence: the number of the call, which rises; 0 if the call changes nothing.
--   lease: milliseconds for which the process counts as alive without renewal.
--   test_time: the time in seconds that tests set; empty otherwise.
--   journal_bytes: the allowance of each account in the journal.
local prefix, command, me = ARGV[1], ARGV[2], ARGV[3]
local sequence, lease, test_time = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local journal_bytes, args = tonumber(ARGV[7]), cjson.decode(ARGV[8])

-- The common clock of all processes that share this server; leases and generations always use it.
local moment = redis.call('TIME')
local server_time = tonumber(moment[1]) + tonumber(moment[2]) / 1000000
local now = test_time == '' and server_time or tonumber(test_time)

-- Kept for the lifetime of the generation: each of these hashes has its id in the field '#', so that
-- none is ever empty.
local GENERATION_HASHES = {
  'permits',    -- permit: its record
  'offers',     -- permit: the record of an offer that was not accepted yet
  'entries',    -- entry of the queue: its record
  'units',      -- s:semaphore, e:entry: the number of its permits and offers
  'limits',     -- semaphore: the limit in effect
  'set',        -- semaphore: the limit that was set, at its registration or by hand
  'cancel_afters',      -- account, digest of model and inputs: Cancel-After of its open attempts
  'imported',   -- account: 1 once the running predictions of the account's list were imported
  'holders',    -- holder: the label of a process that was not declared dead; more in leases.lua
}
-- The same of sorted sets, with the score of '#'.
local GENERATION_SETS = {
  queue = 0,        -- entries that wait, by turn
  declared = 0,     -- limits and rates that processes declare, in this order; see holders.lua
  -- 'account permit' of permits whose holder is not registered, and 'account batch:id' of batches
  -- that wait for a process to take them over, in this order
  orphans = 0,
  leases = '+inf',  -- holders, by the end of their lease on the server's clock
}
local key = {
  generation = prefix .. 'generation',  -- id, run, began_at, opens_at, restarted, permit, turn, ...
  stalled = prefix .. 'stalled',        -- holders that did not accept their offers in time
  -- These outlive the generation; losing them breaks no limit.
  attempts = prefix .. 'attempts',      -- permit: its record, and the description of its attempt
  running = prefix .. 'running',        -- batch: the holder that runs it; '' if it waits for one
  rates = prefix .. 'rates',            -- account: its rate
}
local generation_keys = {}
local function add_generation_key(name)
  key[name] = prefix .. name
  generation_keys[#generation_keys + 1] = key[name]
end
for _, name in ipairs(GENERATION_HASHES) do add_generation_key(name) end
for name in pairs(GENERATION_SETS) do add_generation_key(name) end

local function channel(holder) return prefix .. 'wake:' .. holder end
local function batch_key(batch) return prefix .. 'batch:' .. batch end
local function tasks_key(batch) return prefix .. 'tasks:' .. batch end
local function inputs_key(batch) return prefix .. 'inputs:' .. batch end
local function results_key(batch) return prefix .. 'results:' .. batch end
local function caller_key(caller) return prefix .. 'caller:' .. caller end
local function predictions_key(account) return prefix .. 'predictions:' .. account end
local function request_key(caller, name) return prefix .. 'request:' .. caller .. ':' .. name end
local function memo_key(name) return prefix .. 'memo:' .. name end
local function images_key(account, day)
  return prefix .. 'images:' .. account .. ':' .. string.format('%d', day)
end

local DAY = 86400
local JOURNAL_SECONDS = DAY
local RUNNING_BATCH_SECONDS = 2 * DAY   -- an ended one is kept for JOURNAL_SECONDS

local generation_id      -- the id of the current generation
local opens_at = 0    -- admission is paused until then, on the server's clock

-- The modules of the script, each in a file of its own.
local generation, leases, rates, permits, queue = {}, {}, {}, {}, {}
local holders, journal, space, cache, resync, commands = {}, {}, {}, {}, {}, {}
local answer

-- Format numbers: `whole` for integers (permits have sixteen digits), `exact` without loss.
local function whole(number) return string.format('%.0f', number) end
local function exact(number) return string.format('%.17g', number) end

-- Iterate over the fields of a hash and their values, without '#'.
local function each_field(hash)
  local flat, i = redis.call('HGETALL', hash), -1
  return function()
    i = i + 2
    if flat[i] == '#' then i = i + 2 end
    return flat[i], flat[i + 1]
  end
end

local function each_record(hash)
  local fields = each_field(hash)
  return function()
    local field, packed = fields()
    if field then return field, cmsgpack.unpack(packed) end
  end
end

local function record_of(hash, field)
  local packed = redis.call('HGET', hash, field)
  return packed and cmsgpack.unpack(packed)
end

local function put_record(hash, field, record)
  redis.call('HSET', hash, field, cmsgpack.pack(record))
end

local MAX_FIELDS_PER_READ = 1000

-- Return the values of fields of a hash, by field; those of missing fields are absent.
local function values_of(hash, fields)
  local values = {}
  for first = 1, #fields, MAX_FIELDS_PER_READ do
    local last = math.min(#fields, first + MAX_FIELDS_PER_READ - 1)
    for place, value in ipairs(redis.call('HMGET', hash, unpack(fields, first, last))) do
      values[fields[first + place - 1]] = value or nil
    end
  end
  return values
end
