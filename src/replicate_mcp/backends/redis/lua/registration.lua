-- A process says what it has: at its start, when its lease has lapsed, when the memory was lost, and
-- when the answer to one of its steps was. What it says is true; what is written here is not, where
-- it differs, but for what others have done while it was thought to be gone.

local function as_keys(list)
  local found = {}
  for _, each in ipairs(list) do found[each] = true end
  return found
end

-- Limits that were set; where both know one, the later counts. A name that is not declared here may
-- have been forgotten for good reason, while the memory was whole.
local function say_limits(same)
  local declared = {}
  for _, told in ipairs(args.declared) do
    declared[told.semaphore] = true
    holders.write_declaration(told.semaphore, told.limit, told.per_minute)
  end
  for _, told in ipairs(args.set) do
    local set = record_of(key.set, told.name)
    if (not same or declared[told.name]) and (not set or set.at < told.at) then
      put_record(key.set, told.name, {units = told.units, by_admin = told.by_admin, at = told.at})
      holders.refresh(told.name)
    end
  end
  for name in pairs(declared) do holders.refresh(name) end
end

-- Rates that were learned and images that were asked for, where they were forgotten.
local function say_rates()
  for _, told in ipairs(args.rates) do
    if redis.call('HEXISTS', key.rates, told.account) == 0 then
      local state = {}
      for place, field in ipairs(rate.FIELDS) do state[field] = tonumber(told.values[place] or 0) end
      rates.put(told.account, state)
    end
  end
  for _, told in ipairs(args.images) do
    local counter = images_key(told.account, told.day)
    if tonumber(redis.call('GET', counter) or 0) < told.count then
      redis.call('SET', counter, whole(told.count), 'EX', 2 * DAY)
    end
  end
end

-- One that was entered stays nobody's: whoever made it may yet say so.
local function say_prediction(permit, record)
  if record.entry ~= '' then
    journal.claim(record.account, record.prediction, permit)
  elseif not journal.is_claimed(record.account, record.prediction) then
    journal.claim_for_nobody(record.account, record.prediction, permit)
  end
end

local function say_permits(same, batches)
  local mine = {}
  for _, told in ipairs(args.permits) do mine[told.permit] = told end
  for permit, record in each_record(key.permits) do
    if record.holder == me and not mine[permit] then
      if record.task and not batches[record.entry] then
        permits.give_to(permit, record, '')  -- Whatever it was: somebody will see to it.
      else
        permits.free(permit, false)
      end
    end
  end
  for permit, told in pairs(mine) do
    -- One that is not here any more was seen to by another, unless the memory was lost.
    if not permits.get(permit) and (not same or not told.record.task) then
      told.record.holder = me
      permits.enter(permit, told.record, told.about)
    end
    if told.record.prediction then say_prediction(permit, told.record) end
  end
end

local function say_entries(left)
  local mine = {}
  for _, told in ipairs(args.entries) do mine[told.entry] = true end
  for id, entry in each_record(key.entries) do
    if entry.holder == me and not mine[id] then queue.remove(id) end
  end
  for _, told in ipairs(args.entries) do
    if left[told.entry] then
      queue.remove(told.entry)
    else
      if not queue.get(told.entry) then
        queue.join(told.entry, {
          holder = me, semaphores = told.semaphores, account = told.account,
          at_most = told.at_most, waiting = 0,
        })
      end
      queue.set_wanted(told.entry, told.wanted)
    end
  end
end

local function say_batches(batches, left)
  for batch, holder in each_field(key.running) do
    if holder == me and not batches[batch] then redis.call('HSET', key.running, batch, '') end
  end
  for batch in pairs(batches) do
    if journal.exists(batch) and not left[batch] and
      redis.call('HEXISTS', batch_key(batch), 'ended_at') == 0 then
      redis.call('HSET', key.running, batch, me)
    end
  end
end

-- Returns the batches that this server does not know, and those whose waiting tasks were ended.
function registration.say_again()
  local same = args.generation == generation
  local batches, lost, left, left_list = as_keys(args.batches), {}, {}, {}
  for _, batch in ipairs(args.batches) do
    if not journal.exists(batch) then
      lost[#lost + 1] = batch
    elseif journal.was_left(batch) then
      left[batch] = true
      left_list[#left_list + 1] = batch
    end
  end
  permits.number_above(tonumber(args.newest))
  permits.withdraw_from(me)
  say_limits(same)
  say_rates()
  say_permits(same, batches)
  say_entries(left)
  say_batches(batches, left)
  return lost, left_list
end
