-- The queue: one entry for each batch, or for a process's contexts on one semaphore, in turn.
--
-- An entry's record: holder ('' for a batch that waits for a process), semaphores, account, max_running, waiting (its starts that wait,
-- without those that are offered), and turn.

local ACCOUNT_PREFIX = 'account:'   -- as in semaphores/names.py

function queue.account_semaphore(account) return ACCOUNT_PREFIX .. account end
function queue.is_account(name) return string.sub(name, 1, #ACCOUNT_PREFIX) == ACCOUNT_PREFIX end
function queue.account_of(name) return string.sub(name, #ACCOUNT_PREFIX + 1) end

local known = {}   -- cached for this call

local function entry_of(id)
  if known[id] == nil then known[id] = record_of(key.entries, id) or false end
  return known[id]
end

local function read(ids)
  local unread = {}
  for _, id in ipairs(ids) do
    if known[id] == nil then unread[#unread + 1] = id end
  end
  local packed = values_of(key.entries, unread)
  for _, id in ipairs(unread) do known[id] = packed[id] and cmsgpack.unpack(packed[id]) or false end
end

local function put(id, entry)
  entry.waiting = math.max(0, entry.waiting)
  local kept = {
    holder = entry.holder, semaphores = entry.semaphores, account = entry.account,
    max_running = entry.max_running, waiting = entry.waiting, turn = entry.turn,
  }
  put_record(key.entries, id, kept)
  known[id] = entry
  if entry.waiting > 0 then
    redis.call('ZADD', key.queue, entry.turn, id)
  else
    redis.call('ZREM', key.queue, id)
  end
end

-- Put an entry of this process in the queue, unless it is there already, and set its starts.
function queue.enqueue(item)
  if not entry_of(item.entry) then
    put(item.entry, {
      holder = me, semaphores = item.semaphores, account = item.account,
      max_running = item.max_running, waiting = 0,
      turn = redis.call('HINCRBY', key.generation, 'turn', 1),
    })
  end
  queue.set_wanted(item.entry, item.wanted)
end

-- Remove an entry and its offers.
function queue.remove(id)
  if not entry_of(id) then return end
  permits.withdraw(permits.offered(id))
  redis.call('HDEL', key.entries, id)
  redis.call('ZREM', key.queue, id)
  known[id] = false
end

-- Give an entry to another holder: its offers are withdrawn, and nothing of it waits.
function queue.give_to(id, holder)
  local entry = entry_of(id)
  if not entry or entry.holder == holder then return end
  permits.withdraw(permits.offered(id))
  entry = entry_of(id)
  entry.holder, entry.waiting = holder, 0
  put(id, entry)
end

-- Return the number of entries without a holder by semaphore.
function queue.without_holder()
  local entries = {}
  for _, entry in each_record(key.entries) do
    for _, name in ipairs(entry.holder == '' and entry.semaphores or {}) do
      entries[name] = (entries[name] or 0) + 1
    end
  end
  return entries
end

function queue.wait_more(id, starts)
  local entry = entry_of(id)
  if entry then
    entry.waiting = entry.waiting + starts
    put(id, entry)
  end
end

-- Set the number of starts that an entry of this process wants, offered ones included; withdraw its
-- newest offers if it wants fewer. The call is idempotent.
function queue.set_wanted(id, wanted)
  local entry = entry_of(id)
  if not entry or entry.holder ~= me then return end
  local offered = permits.offered(id)
  local too_many = {}
  for place = 1, #offered - wanted do too_many[place] = offered[place] end
  permits.withdraw(too_many)
  entry = entry_of(id)
  local waiting = math.max(0, wanted - #offered)
  if entry.waiting ~= waiting then
    entry.waiting = waiting
    put(id, entry)
  end
end

function queue.rotate(grants, entries)
  local turn = redis.call('HINCRBY', key.generation, 'turn', #grants) - #grants
  for place, id in ipairs(grants) do entries[id].turn = turn + place end
  for id, entry in pairs(entries) do
    if entry.granted then
      entry.waiting, entry.granted = entry.waiting - entry.granted, nil
      put(id, entry)
    end
  end
end

-- Return whether the entry's accounts may start tasks: after a loss of state, their running
-- predictions must have been imported.
local function may_start(entry, imported)
  for _, name in ipairs(entry.semaphores) do
    if queue.is_account(name) and not imported[queue.account_of(name)] then return false end
  end
  return true
end

local function accounts_of(ids)
  local accounts, seen = {}, {}
  for _, id in ipairs(ids) do
    for _, name in ipairs(known[id] and known[id].semaphores or {}) do
      if queue.is_account(name) and not seen[name] then
        seen[name] = true
        accounts[#accounts + 1] = queue.account_of(name)
      end
    end
  end
  return accounts
end

local function waiting_ids() return redis.call('ZRANGEBYSCORE', key.queue, 1, '+inf') end

-- Return the entries that wait and may start, in turn, for the admission, and whether any entry
-- waits only because admission is paused.
function queue.waiting()
  local ids = waiting_ids()
  if not generation.is_admitting() then return {}, #ids > 0 end
  local waiting = {}
  read(ids)
  local imported = values_of(key.imported, accounts_of(ids))
  for _, id in ipairs(ids) do
    local entry = known[id]
    if entry and may_start(entry, imported) then
      entry.id = id
      waiting[#waiting + 1] = entry
    end
  end
  return waiting, false
end

-- Return the number of waiting starts by semaphore.
function queue.by_semaphore()
  local ids, waiting = waiting_ids(), {}
  read(ids)
  for _, id in ipairs(ids) do
    for _, name in ipairs(known[id] and known[id].semaphores or {}) do
      waiting[name] = (waiting[name] or 0) + known[id].waiting
    end
  end
  return waiting
end
