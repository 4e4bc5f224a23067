-- One call of a process: who asks for what, when it is, and where everything is kept.

-- Redis before 7 may have been told to replicate scripts instead of what they do; these read the
-- time, so what they do has to be replicated.
if redis.replicate_commands then redis.replicate_commands() end

-- Args:
--   me: the process that asks, as a holder.
--   sequence: the number of its step, which rises; 0 where nothing is changed.
--   lease: for how long its holder's key lives without renewal, in milliseconds.
--   told_time: what tests say the time is, in seconds; empty everywhere else.
--   journal_bytes: the allowance of each account in the journal.
local prefix, command, me = ARGV[1], ARGV[2], ARGV[3]
local sequence, lease, test_time = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local journal_bytes, args = tonumber(ARGV[7]), cjson.decode(ARGV[8])

-- The one clock of all who share this server. Leases and generations always go by it.
local moment = redis.call('TIME')
local server_time = tonumber(moment[1]) + tonumber(moment[2]) / 1000000
local now = test_time == '' and server_time or tonumber(test_time)

-- Kept for as long as the generation: each of these hashes carries its id, in the field '#'.
local GENERATION_KEYS = {
  'permits',    -- permit: its record
  'offers',     -- permit: the record of one that was not taken yet
  'entries',    -- entry of the queue: its record
  'units',      -- s:semaphore, e:entry: how many permits and offers of it are out
  'held',       -- holder: how many permits it has, '' for those left to anybody
  'limits',     -- semaphore: the limit that rules
  'set',        -- semaphore: the limit that was set, at its resync or by hand
  'declared',   -- holder, semaphore: the limit and rate that this process declares
  'cancel_afters',      -- account, digest of model and inputs: Cancel-After of its open attempts
  'entered',    -- account: 1 where what the account's list of predictions shows is among the permits
  'holders',    -- holder: the label of a process that is registered, and was not buried
}
local key = {
  generation = prefix .. 'generation',  -- id, run, began_at, opens_at, restarted, permit, turn, ...
  queue = prefix .. 'queue',            -- entries that wait, by turn; '#' and the generation at 0
  stalled = prefix .. 'stalled',        -- holders that left their offers lying
  -- These outlive the generation, and may be lost without harm to a limit.
  attempts = prefix .. 'attempts',      -- permit: its record, and what is known of its attempt
  running = prefix .. 'running',        -- batch: the holder that runs it, '' for one to be ended
  rates = prefix .. 'rates',            -- account: its rate
}
for _, name in ipairs(GENERATION_KEYS) do key[name] = prefix .. name end

local function holder_key(holder) return prefix .. 'holder:' .. holder end
local function channel(holder) return prefix .. 'wake:' .. holder end
local function batch_key(batch) return prefix .. 'batch:' .. batch end
local function tasks_key(batch) return prefix .. 'tasks:' .. batch end
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
local RUNNING_BATCH_SECONDS = 2 * DAY   -- seconds that a running batch is kept; an ended one for JOURNAL_SECONDS

local generation_id      -- the id of the present one
local opens_at = 0    -- nothing is admitted before, on the server's clock

-- The rooms of the script; each is in a file of its own.
local generation, rates, permits, queue = {}, {}, {}, {}
local holders, journal, space, cache, resync = {}, {}, {}, {}, {}
local answer

-- Numbers as text: whole ones (permits have sixteen digits), and any without loss.
local function whole(number) return string.format('%.0f', number) end
local function exact(number) return string.format('%.17g', number) end

-- The fields of a hash with their values, without the generation's mark.
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
