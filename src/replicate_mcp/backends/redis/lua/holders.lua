-- Processes as holders: their declarations of semaphores, and cleanup after dead ones.

-- Declared and set limits

-- Each declaration is in `declared` twice, so that neither a name's lowest limit nor what a process
-- declares is found by reading those of all processes. The fields of a member are on lines of their
-- own, each with its end.
local function by_name(name) return 'name\n' .. name .. '\n' end
local function by_holder(holder, name)
  return 'holder\n' .. holder .. '\n' .. (name and name .. '\n' or '')
end

local function members_of(holder, name, units, rate)
  local rest = string.format('%016d', units) .. '\n' .. rate .. '\n'
  return by_name(name) .. rest .. holder, by_holder(holder, name) .. rest
end

-- Return `count` of the members that begin with these lines, from the one at `first`; all of them
-- if `count` is -1.
local function members_with(lines, first, count)
  local after = string.gsub(lines, '\n$', '\v')
  return redis.call('ZRANGEBYLEX', key.declared, '[' .. lines, '(' .. after, 'LIMIT', first, count)
end

-- Return the lowest limit that living processes declare for a name; nil if none does.
local function declared(name)
  local lines = by_name(name)
  local lowest = members_with(lines, 0, 1)[1]
  return lowest and tonumber(string.match(lowest, '^%d+', #lines + 1))
end

-- Return the rate that a process declares for an account, that with the lowest limit first; nil if
-- none does.
function holders.declared_rate(account)
  local lines, first = by_name(queue.account_semaphore(account)), 0
  repeat
    local members = members_with(lines, first, 100)
    for _, member in ipairs(members) do
      local per_minute = string.match(member, '^%d+\n(.-)\n', #lines + 1)
      if per_minute ~= '' then return tonumber(per_minute) end
    end
    first = first + #members
  until #members == 0
end

function holders.limit(name) return tonumber(redis.call('HGET', key.limits, name)) end

-- Apply the limit that was set, else the lowest that living processes declare. An unset limit stays
-- as a record of 0 units, so that older copies of it in processes' mirrors lose against it.
function holders.refresh(name)
  local set = record_of(key.set, name)
  local units = set and set.units > 0 and set.units or declared(name)
  if units then
    redis.call('HSET', key.limits, name, whole(units))
  else
    redis.call('HDEL', key.limits, name)
  end
end

-- Remove what a process declares, for one name or for all; return the names.
local function undeclare(holder, name)
  local names = {}
  for _, member in ipairs(members_with(by_holder(holder, name), 0, -1)) do
    local of, units, rate = string.match(member, '^holder\n.-\n(.-)\n(%d+)\n(.*)\n$')
    redis.call('ZREM', key.declared, members_of(holder, of, units, rate))
    names[#names + 1] = of
  end
  return names
end

function holders.declare(name, units, per_minute)
  undeclare(me, name)
  local on_name, of_holder = members_of(me, name, units, per_minute and exact(per_minute) or '')
  redis.call('ZADD', key.declared, 0, on_name, 0, of_holder)
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
  local units = queue.is_account(name) and 0 or declared(name) or holders.limit(name)
  put_record(key.set, name, {units = units, by_admin = false, at = server_time})
  holders.refresh(name)
  holders.delete_unused_names()
end

-- Return the number of other processes that have registered a name.
function holders.others_with(name)
  local own = members_with(by_holder(me, name), 0, 1)
  return #members_with(by_name(name), 0, -1) - #own
end

function holders.remove_name(name)
  undeclare(me, name)
  put_record(key.set, name, {units = 0, by_admin = false, at = server_time})
  holders.refresh(name)
  for id, entry in each_record(key.entries) do
    for _, semaphore in ipairs(entry.semaphores) do
      if semaphore == name then
        queue.remove(id)
        journal.forget_entry(id)
      end
    end
  end
end

-- Declare a name for a process that waits for it, which keeps the name alive.
function holders.touch_name(name)
  if not members_with(by_holder(me, name), 0, 1)[1] then
    holders.declare(name, holders.limit(name))
  end
end

-- Delete unused names that were not set by an admin.
function holders.delete_unused_names()
  local needed
  local function is_needed(name)  -- By a batch, whichever process takes it over.
    needed = needed or queue.without_holder()
    return needed[name]
  end
  for name, set in each_record(key.set) do
    if not set.by_admin and not declared(name) and permits.in_use(name) == 0
      and not is_needed(name) then
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

-- Remove these processes, the keys of `gone`, and all their state except the permits of their
-- predictions, and batches that may be resumed; all at once, since some of it is found only by reading that of every process.
function holders.remove(gone, reasons)
  permits.withdraw_from(gone)
  for id, entry in each_record(key.entries) do
    if gone[entry.holder] then
      if journal.is_resumable(id) then queue.give_to(id, '') else queue.remove(id) end
    end
  end
  local undeclared = {}
  for holder in pairs(gone) do
    leases.remove(holder)
    redis.call('SREM', key.stalled, holder)
    for _, name in ipairs(undeclare(holder)) do undeclared[name] = true end
  end
  for name in pairs(undeclared) do holders.refresh(name) end
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
  journal.end_waiting_batches(reasons)
end

-- Do the same, at most once a second for all processes that share the server.
function holders.reap_dead_if_due()
  local since = now - tonumber(redis.call('HGET', key.generation, 'reaped_at'))
  if since >= 1 or since < 0 then holders.reap_dead() end
end
