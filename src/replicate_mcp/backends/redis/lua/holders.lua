-- Processes as holders: their declarations of semaphores, and cleanup after dead ones.

-- Declared and set limits

local declarations   -- by name, cached for this call: the lowest limit, and a rate

local function declared(name)
  if not declarations then
    declarations = {}
    for field, value in each_field(key.declared) do
      local units, per_minute = string.match(value, '^(%S+) ?(%S*)$')
      local of = string.match(field, '^%S* (.*)$')
      local found = declarations[of] or {units = math.huge}
      found.units = math.min(found.units, tonumber(units))
      found.per_minute = found.per_minute or tonumber(per_minute)
      declarations[of] = found
    end
  end
  return declarations[name]
end

function holders.declared_rate(account)
  local found = declared(queue.account_semaphore(account))
  return found and found.per_minute
end

function holders.limit(name) return tonumber(redis.call('HGET', key.limits, name)) end

-- Apply the limit that was set, else the lowest that living processes declare. An unset limit stays
-- as a record of 0 units, so that older copies of it in processes' mirrors lose against it.
function holders.refresh(name)
  local set = record_of(key.set, name)
  local ruling = set and set.units > 0 and set or declared(name)
  if ruling then
    redis.call('HSET', key.limits, name, whole(ruling.units))
  else
    redis.call('HDEL', key.limits, name)
  end
end

-- Write a declaration without `refresh`: a caller that declares many names refreshes them
-- afterwards, so that the declarations are read only once.
function holders.write_declaration(name, units, per_minute)
  local value = per_minute and whole(units) .. ' ' .. exact(per_minute) or whole(units)
  redis.call('HSET', key.declared, me .. ' ' .. name, value)
  declarations = nil
end

function holders.declare(name, units, per_minute)
  holders.write_declaration(name, units, per_minute)
  holders.refresh(name)
end

function holders.set_rate(account, per_minute)
  local state = record_of(key.rates, account) or rate_limit.initial(per_minute, now)
  rates.put(account, rate_limit.with_manual(state, per_minute, now))
end

function holders.declare_account(name, units, per_minute)
  local account = queue.account_of(name)
  local state = record_of(key.rates, account) or rate_limit.initial(per_minute, now)
  rates.put(account, rate_limit.with_configured(state, per_minute, now))
  holders.declare(name, units, per_minute)
end

function holders.set_limit(name, units, by_admin)
  local set = record_of(key.set, name)
  put_record(key.set, name, {
    units = units, by_admin = by_admin or (set and set.by_admin) or false, at = server_time,
  })
  holders.refresh(name)
end

function holders.register_name(name, units)
  if not holders.limit(name) then holders.set_limit(name, units, false) end
  holders.declare(name, holders.limit(name))
end

-- Unset a limit. A registered name keeps a limit of its own: later registrations do not change it.
function holders.unset_limit(name)
  local units, found = 0, declared(name)
  if not queue.is_account(name) then units = found and found.units or holders.limit(name) end
  put_record(key.set, name, {units = units, by_admin = false, at = server_time})
  holders.refresh(name)
  holders.delete_unused_names()
end

-- Return the number of other processes that have registered a name.
function holders.others_with(name)
  local others = 0
  for field in each_field(key.declared) do
    local owner, of = string.match(field, '^(%S*) (.*)$')
    if of == name and owner ~= me then others = others + 1 end
  end
  return others
end

function holders.remove_name(name)
  redis.call('HDEL', key.declared, me .. ' ' .. name)
  declarations = nil
  put_record(key.set, name, {units = 0, by_admin = false, at = server_time})
  holders.refresh(name)
  for id, entry in each_record(key.entries) do
    for _, semaphore in ipairs(entry.semaphores) do
      if semaphore == name then queue.remove(id) end
    end
  end
end

-- Declare a name for a process that waits for it, which keeps the name alive.
function holders.touch_name(name)
  if redis.call('HEXISTS', key.declared, me .. ' ' .. name) == 0 then
    holders.declare(name, holders.limit(name))
  end
end

-- Delete unused names that were not set by an admin.
function holders.delete_unused_names()
  for name, set in each_record(key.set) do
    if not set.by_admin and not declared(name) and permits.in_use(name) == 0 then
      redis.call('HDEL', key.set, name)
      holders.refresh(name)
    end
  end
end

-- Accounts

function holders.is_imported(account)
  return redis.call('HEXISTS', key.imported, account) == 1
end

function holders.mark_imported(account) redis.call('HSET', key.imported, account, '1') end

-- Return the state of every semaphore, or only of `only`.
function holders.states(only)
  local waiting, states = queue.by_semaphore(), {}
  for name, units in each_field(key.limits) do
    if not only or name == only then
      local state = {name, units, whole(permits.in_use(name)), whole(waiting[name] or 0)}
      if queue.is_account(name) then
        local learned = rates.of(queue.account_of(name))
        if learned then
          local paused = learned.paused_until - now
          state[5], state[6] = exact(learned.per_minute), paused > 0 and exact(paused) or ''
        end
      end
      states[#states + 1] = state
    end
  end
  return states
end

-- Dead holders

-- Remove the declarations of these holders, the keys of `from`.
local function undeclare(from)
  local undeclared = {}
  for field in each_field(key.declared) do
    local owner, name = string.match(field, '^(%S*) (.*)$')
    if from[owner] then
      redis.call('HDEL', key.declared, field)
      undeclared[name] = true
    end
  end
  declarations = nil
  for name in pairs(undeclared) do holders.refresh(name) end
end

-- Remove these processes, the keys of `gone`, and all their state except the permits of their
-- predictions; all at once, since some of it is found only by reading that of every process.
function holders.remove(gone, reasons)
  permits.withdraw_from(gone)
  for id, entry in each_record(key.entries) do
    if gone[entry.holder] then queue.remove(id) end
  end
  undeclare(gone)
  for holder in pairs(gone) do
    leases.remove(holder)
    redis.call('SREM', key.stalled, holder)
  end
  for permit, record in each_record(key.permits) do
    if record.holder ~= '' and gone[record.holder] then
      if record.task then permits.index(permit, record) else permits.free(permit, true) end
    end
  end
  holders.delete_unused_names()
  journal.end_batches_of(gone, reasons)
end

-- Abandon the permits of this process's predictions, so that others can adopt them.
function holders.abandon_permits()
  for permit, record in each_record(key.permits) do
    if record.holder == me and record.task then permits.give_to(permit, record, '') end
  end
end

-- Return whether a permit can be adopted.
function holders.is_orphaned(record)
  return record.holder == '' or
    (not leases.is_known(record.holder) and leases.may_declare_dead())
end

local SETTLED_WITHIN = 50 * 60   -- as in replicate_api/attempt_matching.py

-- Return whether an attempt's outcome is recorded, not needed, or too old to be found.
local function is_closed(record)
  return record.entry == '' or record.taken_at < now - SETTLED_WITHIN or
    journal.has_result(record.entry, record.task)
end

-- Release the units of orphaned permits whose predictions must have ended by now. The records stay
-- for recovery, until they are closed.
local function release_ended(reasons)
  for permit, record in pairs(permits.orphans()) do
    if record.ends_by and record.ends_by < now and holders.is_orphaned(record) then
      if is_closed(record) then
        permits.free(permit, true)
        journal.end_task(record.entry, record.task, reasons.lost, record.prediction)
      elseif record.ends_by ~= 0 then
        permits.release_units(permit, record)
      end
    end
  end
end

-- Remove dead holders and clean up after them.
function holders.reap_dead()
  local reasons = args.reasons
  if leases.may_declare_dead() then
    local dead = leases.ended()
    if next(dead) then holders.remove(dead, reasons) end
    redis.call('HSET', key.generation, 'reaped_at', exact(now))
  end
  release_ended(reasons)
end

-- Do the same, at most once a second for all processes that share the server.
function holders.reap_dead_if_due()
  local since = now - tonumber(redis.call('HGET', key.generation, 'reaped_at'))
  if since >= 1 or since < 0 then holders.reap_dead() end
end
