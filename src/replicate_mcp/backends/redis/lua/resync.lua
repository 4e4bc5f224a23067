-- Resynchronisation with a process: at its start, after its lease has lapsed, after the memory was
-- lost, and after the reply to one of its calls was lost. Where the process's state and this
-- server's differ, the process's is correct, except for the actions of others while it seemed dead.

-- Limits that were set; if both sides have one, the later wins. A name that is not declared here
-- may have been removed on purpose, unless the memory was lost.
local function sync_limits(same)
  local declared = {}
  for _, item in ipairs(args.declared) do
    declared[item.semaphore] = true
    holders.declare(item.semaphore, item.limit, item.per_minute)
  end
  for _, item in ipairs(args.set) do
    local set = record_of(key.set, item.name)
    if (not same or declared[item.name]) and (not set or set.at < item.at) then
      put_record(key.set, item.name, {units = item.units, by_admin = item.by_admin, at = item.at})
      holders.refresh(item.name)
    end
  end
end

-- Learned rates and daily image counts, where they were lost.
local function sync_rates()
  for _, item in ipairs(args.rates) do
    if redis.call('HEXISTS', key.rates, item.account) == 0 then
      local state = {}
      for place, field in ipairs(rate_limit.FIELDS) do state[field] = tonumber(item.values[place] or 0) end
      rates.put(item.account, state)
    end
  end
  for _, item in ipairs(args.images) do
    local counter = images_key(item.account, item.day)
    if tonumber(redis.call('GET', counter) or 0) < item.count then
      redis.call('SET', counter, whole(item.count), 'EX', 2 * DAY)
    end
  end
end

-- An imported prediction stays untracked: the process of its attempt may still report it.
local function sync_prediction(permit, record)
  if record.entry ~= '' then
    journal.claim(record.account, record.prediction, permit)
  elseif not journal.is_claimed(record.account, record.prediction) then
    journal.claim_untracked(record.account, record.prediction, permit)
  end
end

local function sync_permits(same, batches)
  local mine = {}
  for _, item in ipairs(args.permits) do mine[item.permit] = item end
  for permit, record in each_record(key.permits) do
    if record.holder == me then
      permits.index(permit, record)
      if not mine[permit] and record.task and (record.adopted or not batches[record.entry]) then
        permits.give_to(permit, record, '')  -- Left to recovery, whatever it was.
      elseif not mine[permit] then
        permits.free(permit, false)
      end
    end
  end
  for permit, item in pairs(mine) do
    -- A missing permit was settled by another process, unless the memory was lost.
    if not permits.get(permit) and (not same or not item.record.task) then
      item.record.holder = me
      permits.enter(permit, item.record, item.about)
    end
    if item.record.prediction then sync_prediction(permit, item.record) end
  end
end

local function sync_entries(taken_over)
  local mine = {}
  for _, item in ipairs(args.entries) do mine[item.entry] = not taken_over[item.entry] end
  for id, entry in each_record(key.entries) do
    if entry.holder == me and not mine[id] then queue.remove(id) end
  end
  for _, item in ipairs(args.entries) do
    if mine[item.entry] then queue.enqueue(item) end
  end
end

local function sync_batches(batches, taken_over)
  local unknown = {}
  for batch, holder in each_field(key.running) do
    if holder == me and not batches[batch] then
      unknown[#unknown + 1] = batch
      -- A batch whose opening got no reply does not run: its caller was told so.
      if redis.call('HEXISTS', batch_key(batch), 'resumed') == 0 then journal.forget_entry(batch) end
    end
  end
  journal.end_batches(unknown, args.reasons)
  for batch, resumed in pairs(batches) do
    if journal.exists(batch) and not taken_over[batch] then journal.run(batch, resumed) end
  end
end

-- Return the batches that this server does not know, and those that others have taken over.
function resync.apply()
  local same = args.generation == generation_id
  local batches, lost, taken_over, listed = args.batches, {}, {}, {}
  for batch, resumed in pairs(batches) do
    local exists = journal.exists(batch)
    if not exists and journal.is_run_here(batch) then
      lost[#lost + 1] = batch
    elseif not exists or journal.is_taken_over(batch, resumed) then
      taken_over[batch] = true
      listed[#listed + 1] = batch
    end
  end
  permits.advance_sequence(tonumber(args.newest))
  permits.withdraw_from({[me] = true})
  sync_limits(same)
  sync_rates()
  sync_permits(same, batches)
  sync_batches(batches, taken_over)
  sync_entries(taken_over)
  return lost, listed
end
