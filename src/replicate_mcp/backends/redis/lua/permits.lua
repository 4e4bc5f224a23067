-- Permits and offers, and their units of semaphores.
--
-- A permit's record: entry, holder, semaphores, account, limited (its entry has a limit of its
-- own), taken_at; with an attempt also task, cancel_after, fingerprint, ends_by (0 once its units
-- were released), images, prediction if known, and adopted (it was sent, by another holder or
-- before). An offer has offered_at instead of taken_at.

-- Rates

local function current(account, packed)
  local state = packed and cmsgpack.unpack(packed)
  if not state then
    -- Never declared, or lost: begin with the rate that living processes declare.
    local per_minute = holders.declared_rate(account)
    if not per_minute then return nil end
    state = rate_limit.initial(per_minute, now)
  end
  return rate_limit.refilled_at(state, now)
end

function rates.of(account) return current(account, redis.call('HGET', key.rates, account)) end

function rates.of_all(accounts)
  local kept, states = values_of(key.rates, accounts), {}
  for _, account in ipairs(accounts) do states[account] = current(account, kept[account]) end
  return states
end

function rates.put(account, state) put_record(key.rates, account, state) end

-- Counting

local function increment(hash, field, by)
  if redis.call('HINCRBY', hash, field, by) <= 0 then redis.call('HDEL', hash, field) end
end

local function semaphore_units(semaphore) return 's:' .. semaphore end
local function entry_units(entry) return 'e:' .. entry end

local function count(record, by)
  if record.ends_by == 0 then return end  -- Its units were released.
  for _, semaphore in ipairs(record.semaphores) do
    increment(key.units, semaphore_units(semaphore), by)
  end
  if record.limited then increment(key.units, entry_units(record.entry), by) end
end

function permits.in_use(semaphore)
  return tonumber(redis.call('HGET', key.units, semaphore_units(semaphore)) or 0)
end

local function count_images(record, images)
  if not record.account or not images or images == 0 then return end
  local counter = images_key(record.account, math.floor(record.taken_at / DAY))
  if redis.call('INCRBY', counter, images) == images then
    redis.call('EXPIRE', counter, 2 * DAY)
  end
end

-- Equal open attempts, distinguished by their Cancel-After

local function used_cancel_afters(fingerprint)
  local used, list = {}, redis.call('HGET', key.cancel_afters, fingerprint)
  for seconds in string.gmatch(list or '', '%d+') do used[tonumber(seconds)] = true end
  return used, list
end

local function fingerprint_of(record) return record.account .. ' ' .. record.fingerprint end

local function add_cancel_after(record)
  if not record.fingerprint then return end
  local _, list = used_cancel_afters(fingerprint_of(record))
  local seconds = string.format('%d', record.cancel_after)
  redis.call('HSET', key.cancel_afters, fingerprint_of(record), list and list .. ' ' .. seconds or seconds)
end

local function remove_cancel_after(record)
  if not record.fingerprint then return end
  local _, list = used_cancel_afters(fingerprint_of(record))
  local kept, removed = {}, false
  for seconds in string.gmatch(list or '', '%d+') do
    if removed or tonumber(seconds) ~= record.cancel_after then
      kept[#kept + 1] = seconds
    else
      removed = true
    end
  end
  if #kept == 0 then
    redis.call('HDEL', key.cancel_afters, fingerprint_of(record))
  else
    redis.call('HSET', key.cancel_afters, fingerprint_of(record), table.concat(kept, ' '))
  end
end

-- Permits

function permits.get(permit) return record_of(key.permits, permit) end

local function orphan_member(permit, record) return (record.account or '') .. ' ' .. permit end

-- List a permit as an orphan if its holder is not registered, for example '' as an abandoned one's;
-- this process is registered, or will be by this call.
function permits.index(permit, record)
  if record.holder == me or leases.is_known(record.holder) then
    redis.call('ZREM', key.orphans, orphan_member(permit, record))
  else
    redis.call('ZADD', key.orphans, 0, orphan_member(permit, record))
    permits.has_new_orphans = true
  end
end

-- Add a permit; `about` describes its attempt: model, inputs, sent_at.
function permits.put(permit, record, about)
  put_record(key.permits, permit, record)
  if about then put_record(key.attempts, permit, {record = record, about = about}) end
  if record.holder ~= me then permits.index(permit, record) end
  add_cancel_after(record)
end

-- Add a permit that took no units as an offer before.
function permits.enter(permit, record, about)
  count(record, 1)
  permits.put(permit, record, about)
end

-- Release a permit if it exists; subtract its images from the daily count if none were requested.
function permits.free(permit, counts_images)
  local record = permits.get(permit)
  if not record or redis.call('HDEL', key.permits, permit) == 0 then return nil end
  redis.call('HDEL', key.attempts, permit)
  if record.holder ~= me then redis.call('ZREM', key.orphans, orphan_member(permit, record)) end
  count(record, -1)
  remove_cancel_after(record)
  if not counts_images then count_images(record, -(record.images or 0)) end
  return record
end

-- Encode a complete permit for a process to mirror.
function permits.encode(permit, record)
  local about = permits.about(permit)
  return {
    permit, record.entry, record.semaphores, record.account or '', record.limited and '1' or '',
    exact(record.taken_at), whole(record.task or 0), whole(record.cancel_after or 0),
    record.fingerprint or '', exact(record.ends_by or 0), whole(record.images or 0),
    record.prediction or '', about.model or '', about.inputs or '', exact(about.sent_at or 0),
  }
end

function permits.about(permit)
  local attempt = record_of(key.attempts, permit)
  return attempt and attempt.about or {}
end

local function change(permit, record)
  put_record(key.permits, permit, record)
  local attempt = record_of(key.attempts, permit)
  if attempt then
    put_record(key.attempts, permit, {record = record, about = attempt.about})
  end
end

function permits.give_to(permit, record, holder)
  record.holder = holder
  permits.index(permit, record)
  change(permit, record)
end

-- Release the units of a permit whose prediction has ended, while its outcome is still unknown.
function permits.release_units(permit, record)
  count(record, -1)
  record.ends_by = 0
  change(permit, record)
end

function permits.set_prediction(permit, record, prediction)
  if record.prediction == prediction then return end
  record.prediction = prediction
  change(permit, record)
end

-- Reload the attempts that survived when a new generation begins.
function permits.reload_attempts()
  for permit, attempt in each_record(key.attempts) do permits.enter(permit, attempt.record) end
end

-- Return the permits whose holder is not registered, of one account or of all, by number.
function permits.orphans(account)
  local members
  if account then  -- '!' follows the blank.
    members = redis.call('ZRANGEBYLEX', key.orphans, '[' .. account .. ' ', '(' .. account .. '!')
  else
    members = redis.call('ZRANGE', key.orphans, 0, -1)
  end
  local found = {}
  for _, member in ipairs(members) do
    local owner, permit = string.match(member, '^(.*) (%d+)$')
    if permit and (not account or owner == account) then found[permit] = permits.get(permit) end
  end
  return found
end

function permits.next_numbers(count)
  local last = tonumber(redis.call('HGET', key.generation, 'permit') or 0)
  local first = math.max(last + 1, math.floor(server_time * 1000000))
  redis.call('HSET', key.generation, 'permit', whole(first + count - 1))
  return first
end

-- Keep permit numbers rising, even after a failover to a server whose clock is behind.
function permits.advance_sequence(newest)
  if newest > tonumber(redis.call('HGET', key.generation, 'permit') or 0) then
    redis.call('HSET', key.generation, 'permit', whole(newest))
  end
end

-- Offers

local offers_out

function permits.offers()
  if not offers_out then
    offers_out = {}
    for permit, record in each_record(key.offers) do offers_out[permit] = record end
  end
  return offers_out
end

function permits.offered(entry)
  local numbers = {}
  for permit, record in pairs(permits.offers()) do
    if record.entry == entry then numbers[#numbers + 1] = permit end
  end
  table.sort(numbers, function(a, b) return tonumber(a) > tonumber(b) end)
  return numbers
end

local function make_offer(permit, record)
  put_record(key.offers, permit, record)
  permits.offers()[permit] = record
  count(record, 1)
end

-- Accept an offer as a permit; its units were counted when it was made.
function permits.accept(permit, attempt)
  local record = permits.offers()[permit]
  if not record or record.holder ~= me then return nil end
  redis.call('HDEL', key.offers, permit)
  permits.offers()[permit] = nil
  local offered_at = record.offered_at
  record.offered_at, record.taken_at = nil, now
  if attempt then
    record.task, record.images, record.fingerprint = attempt.task, attempt.images, attempt.fingerprint
    record.ends_by = now + attempt.max_seconds
    local used = used_cancel_afters(fingerprint_of(record))
    record.cancel_after = distinct_cancel_after(attempt.cancel_after, used)
    count_images(record, attempt.images)
  end
  permits.put(permit, record, attempt and
    {model = attempt.model, inputs = attempt.inputs, sent_at = attempt.sent_at})
  return record, offered_at
end

-- Withdraw offers that were not accepted: requeue their starts and refund their creation slots.
function permits.withdraw(numbers)
  local returned = {}
  for _, permit in ipairs(numbers) do
    local record = permits.offers()[permit]
    redis.call('HDEL', key.offers, permit)
    permits.offers()[permit] = nil
    count(record, -1)
    queue.wait_more(record.entry, 1)
    if record.account then returned[record.account] = (returned[record.account] or 0) + 1 end
  end
  for account, slots in pairs(returned) do
    local state = rates.of(account)
    if state then rates.put(account, rate_limit.refund(state, slots)) end
  end
end

-- Withdraw the offers of these holders, the keys of `from`.
function permits.withdraw_from(from)
  local numbers = {}
  for permit, record in pairs(permits.offers()) do
    if from[record.holder] then numbers[#numbers + 1] = permit end
  end
  permits.withdraw(numbers)
end

local function withdraw_stale()
  local numbers, late = {}, {}
  for permit, record in pairs(permits.offers()) do
    -- An offer from the future was made before the clock was set back.
    if record.offered_at < now - admission.OFFER_TTL_SECONDS or record.offered_at > now + 1 then
      numbers[#numbers + 1] = permit
      late[record.holder] = true
    end
  end
  permits.withdraw(numbers)
  for holder in pairs(late) do redis.call('SADD', key.stalled, holder) end
end

-- Admission

local function make_offers(grants, entries, states)
  local number, others, spent = permits.next_numbers(#grants), {}, {}
  for place, id in ipairs(grants) do
    local entry = entries[id]
    make_offer(whole(number + place - 1), {
      entry = id, holder = entry.holder, semaphores = entry.semaphores, account = entry.account,
      limited = entry.max_running and true or nil, offered_at = now,
    })
    entry.granted = (entry.granted or 0) + 1
    if entry.account then spent[entry.account] = (spent[entry.account] or 0) + 1 end
    if entry.holder ~= me then others[entry.holder] = true end
  end
  queue.rotate(grants, entries)
  for account, slots in pairs(spent) do
    rates.put(account, rate_limit.consume(states[account], slots))
  end
  for holder in pairs(others) do redis.call('PUBLISH', channel(holder), '') end
end

-- List the holders whose offers were withdrawn; this holder resumes, as its call shows.
local function list_stalled_holders()
  local stalled = {}
  for _, holder in ipairs(redis.call('SMEMBERS', key.stalled)) do stalled[holder] = true end
  if stalled[me] then
    redis.call('SREM', key.stalled, me)
    stalled[me] = nil
  end
  return stalled
end

local function sooner(a, b) return a and b and math.min(a, b) or a or b end

-- Return the free units by semaphore, the rates by account, and the entries by id; set how many
-- starts of each entry run. The number of reads does not grow with that of the entries.
local function situation(waiting)
  local names, accounts, counters, entries = {}, {}, {}, {}
  local seen_names, seen_accounts = {}, {}
  for _, entry in ipairs(waiting) do
    entries[entry.id] = entry
    for _, name in ipairs(entry.semaphores) do
      if not seen_names[name] then
        seen_names[name] = true
        names[#names + 1], counters[#counters + 1] = name, semaphore_units(name)
      end
    end
    if entry.max_running then counters[#counters + 1] = entry_units(entry.id) end
    if entry.account and not seen_accounts[entry.account] then
      seen_accounts[entry.account] = true
      accounts[#accounts + 1] = entry.account
    end
  end
  local limits, units = values_of(key.limits, names), values_of(key.units, counters)
  local free = {}
  for _, name in ipairs(names) do
    free[name] = tonumber(limits[name] or 0) - tonumber(units[semaphore_units(name)] or 0)
  end
  for _, entry in ipairs(waiting) do
    entry.running = entry.max_running and tonumber(units[entry_units(entry.id)] or 0) or 0
  end
  return free, rates.of_all(accounts), entries
end

-- Run the admission over the queue; return when to decide again, if time alone can change the
-- decision, and for how many seconds all admission is paused, because the generation is new.
local function decide()
  local waiting, is_paused = queue.waiting()
  local pause = is_paused and opens_at - server_time
  local next_at = pause and now + pause
  if #waiting == 0 then return next_at, pause end
  local free, states, entries = situation(waiting)
  local oldest, stalled = {}, list_stalled_holders()
  for _, record in pairs(permits.offers()) do
    local at = oldest[record.holder]
    oldest[record.holder] = at and math.min(at, record.offered_at) or record.offered_at
  end
  for holder, at in pairs(oldest) do
    if at < now - admission.OFFER_STALE_SECONDS then
      stalled[holder] = true
      next_at = sooner(next_at, at + admission.OFFER_TTL_SECONDS + 0.001)
    end
  end
  local grants, again_at = admission.admit(waiting, free, states, stalled, now)
  if #grants > 0 then make_offers(grants, entries, states) end
  return sooner(next_at, again_at)
end

-- Return the seconds until another offer may be possible, those for which admission is paused, and
-- this holder's offers.
function permits.admit()
  withdraw_stale()
  local next_at, pause = decide()
  local mine = {}
  for permit, record in pairs(permits.offers()) do
    if record.holder == me then mine[#mine + 1] = permit end
  end
  table.sort(mine, function(a, b) return tonumber(a) < tonumber(b) end)
  local room = {next_at and exact(math.max(0, next_at - now)) or '', pause and exact(pause) or ''}
  for _, permit in ipairs(mine) do
    room[#room + 1] = permit
    room[#room + 1] = permits.offers()[permit].entry
  end
  return room
end
