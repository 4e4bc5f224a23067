-- What a process can ask for, each in one call: a backend's promise, in batches/backend.py.
--
-- The answer is 'ok' and what was asked for, or 'register' and the generation where this server
-- does not know the process (any more): it says again what it has, and asks again.

local steps = {}

-- Steps that free something, or must not be lost: they go on when the memory is full. A script that
-- has written once may write on, and renewing the lease is a write that is always allowed.
local GOES_ON = {}
for _, name in ipairs({
  'renew', 'leave', 'release', 'put_back', 'finish', 'record', 'abandon', 'adopt', 'claim',
  'cancel_batch', 'close', 'restore_batch', 'admit', 'orphans', 'semaphores',
}) do GOES_ON[name] = true end

-- Holders

-- Say (again) what this process has; `args.generation` is the one in which it last did. It lives
-- from then on: whoever cannot say what it has is gone for the others.
function steps.register()
  redis.call('DEL', holder_key(me))  -- A write that a full memory allows.
  redis.call('SREM', key.stalled, me)
  memory.wait_for_lease()
  local lost, left = registration.say_again()
  redis.call('HSET', holder_key(me), 'since', exact(server_time), 'sequence', whole(sequence))
  holders.renew()
  redis.call('HSET', key.holders, me, args.label)
  redis.call('PUBLISH', channel(me), '')
  return {generation, lost, left}
end

-- Renew the lease; what a process keeps in case that the memory is lost comes with it.
function steps.renew()
  local set, known_rates, images = {}, {}, {}
  for name, each in each_record(key.set) do
    set[#set + 1] = {name, whole(each.units), each.by_admin and '1' or '', exact(each.at)}
  end
  local today = math.floor(now / DAY)
  for _, account in ipairs(args.accounts) do
    local state = record_of(key.rates, account)
    if state then
      local values = {account}
      for _, field in ipairs(rate.FIELDS) do values[#values + 1] = exact(state[field] or 0) end
      known_rates[#known_rates + 1] = values
    end
    local count = redis.call('GET', images_key(account, today))
    if count then images[#images + 1] = {account, whole(today), count} end
  end
  return {set, known_rates, images}
end

function steps.close()
  holders.leave_permits()
  holders.depart(me, args.reasons)
  return {permits.admit()}
end

-- Semaphores

function steps.declare()
  holders.declare_account(args.semaphore, args.limit, args.per_minute)
  return {}
end

function steps.set_rate()
  holders.set_rate(queue.account_of(args.semaphore), args.per_minute)
  return {permits.admit()}
end

function steps.register_name()
  holders.register_name(args.semaphore, args.limit)
  return {holders.states(args.semaphore)}
end

local function known_names()
  local names = {}
  for name in each_field(key.limits) do names[#names + 1] = name end
  return names
end

function steps.resize()
  if not holders.limit(args.semaphore) then return {'', known_names()} end
  holders.set_limit(args.semaphore, args.limit, args.by_admin)
  return {permits.admit()}
end

function steps.unset()
  if not holders.limit(args.semaphore) then return {'', known_names()} end
  holders.unset_limit(args.semaphore)
  return {permits.admit()}
end

function steps.remove()
  holders.look()
  local name = args.semaphore
  if not holders.limit(name) then return {'unknown', known_names()} end
  local in_use, waiting = permits.in_use(name), queue.by_semaphore()[name] or 0
  local others = holders.others_with(name)
  if in_use + waiting + others > 0 then
    return {'used', whole(in_use), whole(waiting), whole(others)}
  end
  holders.remove_name(name)
  return {'removed'}
end

function steps.semaphores()
  holders.look()
  return {holders.states()}
end

function steps.shares()
  local labels, shares = {}, {}
  for holder, label in each_field(key.holders) do labels[holder] = label end
  local function add(holder, semaphores, in_use, waiting)
    for _, name in ipairs(semaphores) do
      shares[#shares + 1] = {labels[holder] or '', name, whole(in_use), whole(waiting)}
    end
  end
  for _, hash in ipairs({key.permits, key.offers}) do
    for _, record in each_record(hash) do
      if record.ends_by ~= 0 then add(record.holder, record.semaphores, 1, 0) end
    end
  end
  for _, entry in each_record(key.entries) do
    add(entry.holder, entry.semaphores, 0, entry.waiting)
  end
  return {shares}
end

-- The queue and its permits

function steps.check_key()
  local batch, digest = journal.begun_by(args.caller, args.key)
  return {batch and {batch, digest} or {}}
end

local function are_known(names)
  for _, name in ipairs(names) do
    if not holders.limit(name) then return false end
  end
  return true
end

-- Let an entry wait; the limits of its semaphores.
local function join(asked)
  local limits = {}
  for place, name in ipairs(asked.semaphores) do
    holders.use(name)
    limits[place] = {name, whole(holders.limit(name))}
  end
  if not queue.get(asked.entry) then
    queue.join(asked.entry, {
      holder = me, semaphores = asked.semaphores, account = asked.account,
      at_most = asked.at_most, waiting = 0,
    })
  end
  queue.set_wanted(asked.entry, asked.wanted)
  return limits
end

function steps.join()
  if not are_known(args.semaphores) then return {'', known_names()} end
  local limits = join(args)
  return {permits.admit(), limits}
end

local function open_batch(asked)
  local batch, digest, is_forgotten = journal.begun_by(asked.batch.caller, asked.batch.key)
  if batch and (is_forgotten or batch ~= asked.entry) then return {'taken', batch, digest} end
  if not are_known(asked.semaphores) then return {'unknown', known_names()} end
  if not journal.exists(asked.entry) then
    local refused = space.make(asked.batch.account, asked.batch.tasks)
    if refused then return {'full', refused} end
    journal.open(asked.entry, asked.batch)
  end
  local limits = join(asked)
  return {'begun', limits, redis.call('HGET', batch_key(asked.entry), 'created_at')}
end

function steps.open_batch()
  local answers, begun = {}, false
  for place, asked in ipairs(args.asked) do
    answers[place] = open_batch(asked)
    begun = begun or answers[place][1] == 'begun'
  end
  return {begun and permits.admit() or {'', ''}, answers}
end

function steps.leave()
  if args.wholly then
    queue.remove(args.entry)
  else
    queue.set_wanted(args.entry, args.wanted)
  end
  return {permits.admit()}
end

-- Whoever kept the queue waiting with its offers lets it go on as it takes them.
local function room_after_taking(oldest)
  if now - oldest > admission.OFFER_STALLS_AFTER then return permits.admit() end
  return {'', ''}
end

function steps.take()
  local taken, oldest = {}, now
  for _, permit in ipairs(args.permits) do
    local record = permits.get(permit)
    if record and record.holder == me then
      taken[#taken + 1] = {permit, record.entry}  -- An answer was lost.
    else
      local offered_at
      record, offered_at = permits.take(permit)
      if record then
        taken[#taken + 1] = {permit, record.entry}
        oldest = math.min(oldest, offered_at)
      end
    end
  end
  return {room_after_taking(oldest), exact(now), taken}
end

local function images_left(account, a_day)
  if not a_day or not account then return nil end
  local counter = images_key(account, math.floor(now / DAY))
  return a_day - tonumber(redis.call('GET', counter) or 0)
end

-- Note what one caller asks for, and count it in `sent` by account; also, when the oldest of its
-- offers was made.
local function note(asked, sent)
  local noted, oldest, left, cap_reached = {}, now, nil, false
  for _, attempt in ipairs(asked.attempts) do
    local permit = attempt.permit
    local record, offer = permits.get(permit), permits.offers()[permit]
    if record and record.holder == me then
      noted[#noted + 1] = {permit, whole(record.cancel_after)}  -- An answer was lost.
    elseif offer and offer.holder == me then
      left = left or images_left(offer.account, asked.images_per_day)
      if left and attempt.images > left then
        cap_reached = true
        permits.withdraw({permit})
      else
        if left then left = left - attempt.images end
        local offered_at
        record, offered_at = permits.take(permit, attempt)
        noted[#noted + 1] = {permit, whole(record.cancel_after)}
        oldest = math.min(oldest, offered_at)
        sent[record.account] = (sent[record.account] or 0) + 1
      end
    end
  end
  local opens_in = cap_reached and exact((math.floor(now / DAY) + 1) * DAY - now) or ''
  return {noted, opens_in}, oldest
end

function steps.note_attempts()
  local answers, sent, oldest = {}, {}, now
  for place, asked in ipairs(args.asked) do
    local offered_at
    answers[place], offered_at = note(asked, sent)
    oldest = math.min(oldest, offered_at)
  end
  for account, creations in pairs(sent) do
    local state = rates.of(account)
    if state then rates.put(account, rate.sent(state, creations)) end
  end
  return {room_after_taking(oldest), exact(now), answers}
end

function steps.release()
  permits.free(args.permit, true)
  return {permits.admit()}
end

function steps.put_back()
  local record = permits.free(args.permit, false)
  if record and record.account and args.throttling then
    local state = rates.of(record.account)
    if state then
      rates.put(record.account, rate.throttled(state, args.throttling, record.taken_at))
    end
  end
  if args.entry then queue.set_wanted(args.entry, args.wanted) end
  return {permits.admit()}
end

function steps.admit()
  holders.look_sometimes()
  return {permits.admit()}
end

-- Attempts

-- Record one result: whether its batch is known, or its prediction taken by another attempt.
local function finish(asked)
  local record = permits.get(asked.permit)
  local account = journal.account_of(asked.batch) or (record and record.account)
  if asked.prediction and account and
    not journal.claim(account, asked.prediction, asked.permit) then return 'taken' end
  if asked.ended then
    permits.free(asked.permit, asked.asked_for)
  elseif record and record.holder == me then
    permits.give_to(asked.permit, permits.get(asked.permit), '')
  end
  return journal.record(asked.batch, {asked.result}) and 'known' or 'unknown'
end

function steps.finish()
  local outcomes, recorded = {}, false
  for place, asked in ipairs(args.asked) do
    outcomes[place] = finish(asked)
    recorded = recorded or outcomes[place] ~= 'taken'
  end
  return {recorded and permits.admit() or {'', ''}, outcomes}
end

function steps.record()
  local known = journal.record(args.batch, args.results)
  if args.wanted then queue.set_wanted(args.batch, args.wanted) end
  return {permits.admit(), known and '1' or ''}
end

function steps.claim()
  local record = permits.get(args.permit)
  local account = journal.account_of(args.batch) or (record and record.account)
  local given = account and journal.claim(account, args.prediction, args.permit)
  return {given and '1' or ''}
end

local function attempts_of(account, only_left)
  local found = {}
  for permit, record in each_record(key.permits) do
    if record.task and record.account == account and
      (not only_left or holders.is_left(record)) then
      local about = permits.about(permit)
      found[#found + 1] = {
        permit, record.entry, whole(record.task), about.model or '', about.inputs or '{}',
        whole(record.cancel_after or 0), exact(about.sent_at or 0), record.prediction or '',
      }
    end
  end
  return found
end

function steps.open_attempts() return {attempts_of(args.account, false)} end

function steps.orphans()
  holders.look()
  if not permits.left_behind() then return {{}} end
  return {attempts_of(args.account, true)}
end

function steps.adopt()
  local record = permits.get(args.permit)
  if not record then return {} end
  if record.holder ~= me then
    if not holders.is_left(record) then return {} end
    permits.give_to(args.permit, record, me)
  end
  return {permits.told(args.permit, record)}
end

function steps.abandon()
  local record = permits.get(args.permit)
  if record and record.holder == me then permits.give_to(args.permit, record, '') end
  return {}
end

-- What was forgotten

-- Whether the account's predictions have to be entered; the generation, if so.
function steps.forgot()
  if not memory.is_open() or holders.is_entered(args.account) then return {''} end
  return {generation}
end

function steps.enter_running()
  local account, number = args.account, permits.next_numbers(#args.running)
  for place, running in ipairs(args.running) do
    if not journal.is_claimed(account, running.id) then
      local permit = whole(number + place - 1)
      permits.enter(permit, {
        entry = '', holder = '', semaphores = {queue.account_semaphore(account)}, account = account,
        taken_at = now, task = 0, ends_by = now + running.ends_in, prediction = running.id,
      }, {model = running.model, inputs = '{}', sent_at = 0})
      journal.claim_for_nobody(account, running.id, permit)
    end
  end
  if memory.is_open() and args.generation == generation then
    holders.enter(account)
  end
  return {permits.admit()}
end

-- The journal

-- Write a batch that this server has forgotten, or what it lacks of its results.
function steps.restore_batch()
  if not journal.exists(args.batch) then
    if not args.told then return {} end
    journal.open(args.batch, args.told)
  end
  local account = journal.account_of(args.batch)
  for _, result in ipairs(args.results) do
    if result[4] and not journal.is_claimed(account, result[4]) then
      journal.claim(account, result[4], result[5])
    end
  end
  journal.record(args.batch, args.results)
  if args.canceled then redis.call('HSET', batch_key(args.batch), 'canceled', '1') end
  if args.is_whole then redis.call('HSET', batch_key(args.batch), 'generation', generation) end
  return {}
end

function steps.cancel_batch()
  journal.cancel(args.batch)
  return {}
end

function steps.canceled()
  local canceled = {}
  for _, batch in ipairs(args.batches) do
    local marks = redis.call('HMGET', batch_key(batch), 'canceled', 'ended_at')
    if marks[1] and not marks[2] then canceled[#canceled + 1] = batch end
  end
  return {canceled}
end

function steps.batch() return {journal.state(args.batch)} end

function steps.batches()
  local found = {}
  for _, caller in ipairs(args.callers) do
    local newest = redis.call('ZREVRANGE', caller_key(caller), 0, args.limit - 1)
    for _, batch in ipairs(newest) do found[#found + 1] = journal.listed(batch) end
  end
  return {found}
end

function steps.tasks() return {redis.call('LRANGE', tasks_key(args.batch), 0, -1)} end

function steps.results()
  return {redis.call('LRANGE', results_key(args.batch), args.after, args.last)}
end

function steps.known_predictions() return {journal.recent_predictions(args.account)} end

-- Answers of Replicate's

function steps.remember()
  memos.put(args.key, args.value, args.seconds, args.size, args.most)
  return {}
end

function steps.recall() return {memos.get(args.key)} end

-- The call

function answer()
  memory.check()
  if ask ~= 'register' and not holders.is_registered() then return {'register', generation} end
  if sequence > 0 then
    -- A step that was given up and arrives after a later one must do nothing any more.
    if holders.is_late() then return {'late'} end
    if GOES_ON[ask] then holders.renew() end
    if ask ~= 'register' then
      redis.call('HSET', holder_key(me), 'sequence', whole(sequence))
    end
  end
  local reply = steps[ask]()
  space.settle()
  return {'ok', unpack(reply)}
end
