-- The commands that a process can call, which implement `Backend` in batches/backend.py; those that
-- idle processes call have smaller scripts, in renewal.lua and has_orphans.lua.

-- Holders

-- Synchronise this process's state; `args.generation` is that of its last synchronisation. The
-- process counts as alive only from then on: one that cannot send its state is dead for the others.
function commands.register()
  leases.suspend()
  redis.call('SREM', key.stalled, me)
  generation.extend_to_lease()
  local lost, taken_over = resync.apply()
  leases.begin(args.label)
  redis.call('PUBLISH', channel(me), '')
  return {generation_id, lost, taken_over}
end

function commands.close()
  holders.abandon_permits()
  holders.remove({[me] = true}, args.reasons)
  return {permits.admit()}
end

-- Semaphores

function commands.declare_limit()
  holders.declare_account(args.semaphore, args.limit, args.per_minute)
  return {}
end

function commands.set_rate()
  holders.set_rate(queue.account_of(args.semaphore), args.per_minute)
  return {permits.admit()}
end

function commands.register_name()
  holders.register_name(args.semaphore, args.limit)
  return {holders.states(args.semaphore)}
end

local function known_names()
  local names = {}
  for name in each_field(key.limits) do names[#names + 1] = name end
  return names
end

function commands.resize()
  if not holders.limit(args.semaphore) then return {'', known_names()} end
  holders.set_limit(args.semaphore, args.limit, args.by_admin)
  return {permits.admit()}
end

function commands.unset()
  if not holders.limit(args.semaphore) then return {'', known_names()} end
  holders.unset_limit(args.semaphore)
  return {permits.admit()}
end

function commands.remove()
  holders.reap_dead()
  local name = args.semaphore
  if not holders.limit(name) then return {'unknown', known_names()} end
  local in_use = permits.in_use(name)
  local waiting = (queue.by_semaphore()[name] or 0) + (queue.without_holder()[name] or 0)
  local others = holders.others_with(name)
  if in_use + waiting + others > 0 then
    return {'used', whole(in_use), whole(waiting), whole(others)}
  end
  holders.remove_name(name)
  return {'removed'}
end

function commands.semaphores()
  holders.reap_dead()
  return {holders.states()}
end

function commands.usage_by_holder()
  local shares, users, seen = {}, {}, {}
  local function add(holder, semaphores, in_use, waiting)
    if not seen[holder] then
      seen[holder] = true
      users[#users + 1] = holder
    end
    for _, name in ipairs(semaphores) do
      shares[#shares + 1] = {holder, name, whole(in_use), whole(waiting)}
    end
  end
  for _, hash in ipairs({key.permits, key.offers}) do
    for _, record in each_record(hash) do
      if record.ends_by ~= 0 then add(record.holder, record.semaphores, 1, 0) end
    end
  end
  for _, entry in each_record(key.entries) do
    if entry.holder ~= '' then add(entry.holder, entry.semaphores, 0, entry.waiting) end
  end
  local labels = values_of(key.holders, users)
  for _, share in ipairs(shares) do share[1] = labels[share[1]] or '' end
  return {shares}
end

-- The queue and its permits

function commands.check_idempotency_key()
  local batch, digest = journal.find_by_key(args.caller, args.key)
  return {batch and {batch, digest} or {}}
end

local function are_known(names)
  for _, name in ipairs(names) do
    if not holders.limit(name) then return false end
  end
  return true
end

-- Enqueue an entry; return the limits of its semaphores.
local function enqueue(call)
  local limits = {}
  for place, name in ipairs(call.semaphores) do
    holders.touch_name(name)
    limits[place] = {name, whole(holders.limit(name))}
  end
  queue.enqueue(call)
  return limits
end

function commands.enqueue()
  if not are_known(args.semaphores) then return {'', known_names()} end
  local limits = enqueue(args)
  return {permits.admit(), limits}
end

local function open_batch(call)
  local batch, digest, is_forgotten = journal.find_by_key(call.batch.caller, call.batch.key)
  if batch and (is_forgotten or batch ~= call.entry) then return {'taken', batch, digest} end
  if not are_known(call.semaphores) then return {'unknown', known_names()} end
  if not journal.exists(call.entry) then
    local refused = space.make(call.batch)
    if refused then return {'full', refused} end
    journal.open(call.entry, call.batch, call)
  end
  local limits = enqueue(call)
  return {'opened', limits, redis.call('HGET', batch_key(call.entry), 'created_at')}
end

function commands.open_batch()
  local answers, opened = {}, false
  for place, call in ipairs(args.calls) do
    answers[place] = open_batch(call)
    opened = opened or answers[place][1] == 'opened'
  end
  return {opened and permits.admit() or {'', ''}, answers}
end

function commands.dequeue()
  if args.entirely and journal.is_run_here(args.entry) then
    queue.remove(args.entry)
    journal.forget_entry(args.entry)
  elseif not args.entirely then
    queue.set_wanted(args.entry, args.wanted)
  end
  return {permits.admit()}
end

-- Run the admission if late acceptance of offers had stalled the queue.
local function admission_after_accepting(oldest)
  if now - oldest > admission.OFFER_STALE_SECONDS then return permits.admit() end
  return {'', ''}
end

function commands.accept_offers()
  local accepted, oldest = {}, now
  for _, permit in ipairs(args.permits) do
    local record = permits.get(permit)
    if record and record.holder == me then
      accepted[#accepted + 1] = {permit, record.entry}  -- The reply was lost.
    else
      local offered_at
      record, offered_at = permits.accept(permit)
      if record then
        accepted[#accepted + 1] = {permit, record.entry}
        oldest = math.min(oldest, offered_at)
      end
    end
  end
  return {admission_after_accepting(oldest), exact(now), accepted}
end

local function images_remaining(account, a_day)
  if not a_day or not account then return nil end
  local counter = images_key(account, math.floor(now / DAY))
  return a_day - tonumber(redis.call('GET', counter) or 0)
end

-- Record the attempts of one call, and count them in `sent` by account; return also when the oldest
-- of their offers was made.
local function record_attempts(call, sent)
  local recorded, oldest, left, cap_reached = {}, now, nil, false
  for _, attempt in ipairs(call.attempts) do
    local permit = attempt.permit
    local record, offer = permits.get(permit), permits.offers()[permit]
    if record and record.holder == me then
      recorded[#recorded + 1] = {permit, whole(record.cancel_after)}  -- The reply was lost.
    elseif offer and offer.holder == me then
      left = left or images_remaining(offer.account, call.images_per_day)
      if left and attempt.images > left then
        cap_reached = true
        permits.withdraw({permit})
      else
        if left then left = left - attempt.images end
        local offered_at
        record, offered_at = permits.accept(permit, attempt)
        recorded[#recorded + 1] = {permit, whole(record.cancel_after)}
        oldest = math.min(oldest, offered_at)
        sent[record.account] = (sent[record.account] or 0) + 1
      end
    end
  end
  local resets_in = cap_reached and exact((math.floor(now / DAY) + 1) * DAY - now) or ''
  return {recorded, resets_in}, oldest
end

function commands.record_attempts()
  local answers, sent, oldest = {}, {}, now
  for place, call in ipairs(args.calls) do
    local offered_at
    answers[place], offered_at = record_attempts(call, sent)
    oldest = math.min(oldest, offered_at)
  end
  for account, creations in pairs(sent) do
    local state = rates.of(account)
    if state then rates.put(account, rate_limit.on_sent(state, creations)) end
  end
  return {admission_after_accepting(oldest), exact(now), answers}
end

function commands.release()
  permits.free(args.permit, true)
  return {permits.admit()}
end

function commands.requeue()
  local record = permits.free(args.permit, false)
  if record and record.account and args.throttling then
    local state = rates.of(record.account)
    if state then
      rates.put(record.account, rate_limit.on_throttled(state, args.throttling, record.taken_at))
    end
  end
  if args.entry then queue.set_wanted(args.entry, args.wanted) end
  return {permits.admit()}
end

-- Release the permit of an attempt that created nothing; its task is left to the process that runs
-- the batch, or will.
function commands.give_back()
  local record = permits.free(args.permit, false)
  if record and redis.call('HEXISTS', key.running, record.entry) == 0 then
    journal.end_task(record.entry, record.task, args.reasons.interrupted)
  end
  return {permits.admit()}
end

function commands.admit()
  holders.reap_dead_if_due()
  return {permits.admit()}
end

-- Attempts

-- Record one result; return whether its batch is known, or its prediction is claimed by another
-- attempt.
local function finish(call)
  local record = permits.get(call.permit)
  local account = journal.account_of(call.batch) or (record and record.account)
  if call.prediction and account and
    not journal.claim(account, call.prediction, call.permit) then return 'taken' end
  if call.ended then
    permits.free(call.permit, call.counts_images)
  elseif record and record.holder == me then
    permits.give_to(call.permit, permits.get(call.permit), '')
  end
  return journal.record(call.batch, {call.result}) and 'known' or 'unknown'
end

function commands.finish()
  local outcomes, recorded = {}, false
  for place, call in ipairs(args.calls) do
    outcomes[place] = finish(call)
    recorded = recorded or outcomes[place] ~= 'taken'
  end
  return {recorded and permits.admit() or {'', ''}, outcomes}
end

-- Return also whether the batch is known, or is not this process's any more.
function commands.record_results()
  if args.wanted and not journal.is_run_here(args.batch) then return {permits.admit(), 'lost'} end
  local known = journal.record(args.batch, args.results)
  if args.wanted then queue.set_wanted(args.batch, args.wanted) end
  return {permits.admit(), known and '1' or ''}
end

function commands.claim_prediction()
  local record = permits.get(args.permit)
  local account = journal.account_of(args.batch) or (record and record.account)
  local given = account and journal.claim(account, args.prediction, args.permit)
  return {given and '1' or ''}
end

local function describe(permit, record)
  local about = permits.about(permit)
  return {
    permit, record.entry, whole(record.task), about.model or '', about.inputs or '{}',
    whole(record.cancel_after or 0), exact(about.sent_at or 0), record.prediction or '',
  }
end

function commands.open_attempts()
  local found = {}
  for permit, record in each_record(key.permits) do
    if record.task and record.account == args.account then
      found[#found + 1] = describe(permit, record)
    end
  end
  return {found}
end

function commands.orphans()
  holders.reap_dead()
  local found = {}
  for permit, record in pairs(permits.orphans(args.account)) do
    if record.task and holders.is_orphaned(record) then
      found[#found + 1] = describe(permit, record)
    end
  end
  return {found}
end

function commands.adopt()
  local record = permits.get(args.permit)
  if not record then return {} end
  if record.holder ~= me then
    if not holders.is_orphaned(record) then return {} end
    record.adopted = true
    permits.give_to(args.permit, record, me)
  end
  return {permits.encode(args.permit, record)}
end

function commands.abandon()
  local record = permits.get(args.permit)
  if record and record.holder == me then permits.give_to(args.permit, record, '') end
  return {}
end

-- Lost state

-- Return the generation in which the account's predictions have to be imported, and that in which
-- they have been; '' for none.
function commands.has_lost_state()
  if not generation.is_admitting() then return {'', ''} end
  if holders.is_imported(args.account) then return {'', generation_id} end
  return {generation_id, ''}
end

function commands.import_running()
  local account, number = args.account, permits.next_numbers(#args.running)
  for place, running in ipairs(args.running) do
    if not journal.is_claimed(account, running.id) then
      local permit = whole(number + place - 1)
      permits.enter(permit, {
        entry = '', holder = '', semaphores = {queue.account_semaphore(account)}, account = account,
        taken_at = now, task = 0, ends_by = now + running.ends_in, prediction = running.id,
      }, {model = running.model, inputs = '{}', sent_at = 0})
      journal.claim_untracked(account, running.id, permit)
    end
  end
  if generation.is_admitting() and args.generation == generation_id then
    holders.mark_imported(account)
  end
  return {permits.admit()}
end

-- The journal

-- Restore a lost batch, or its missing results.
function commands.restore_batch()
  if not journal.exists(args.batch) then
    if not args.fields then return {} end
    journal.open(args.batch, args.fields, args.fields.entry)
  end
  if args.fields and not journal.is_taken_over(args.batch, args.resumed) then
    journal.run(args.batch, args.resumed)
    if args.entry then queue.enqueue(args.entry) end
  end
  local account = journal.account_of(args.batch)
  for _, result in ipairs(args.results) do
    if result[4] and not journal.is_claimed(account, result[4]) then
      -- It stays claimed, although the permit of a result that others recorded is not known.
      local permit = result[5] ~= '0' and result[5] or whole(permits.next_numbers(1))
      journal.claim(account, result[4], permit)
    end
  end
  journal.record(args.batch, args.results)
  if args.canceled then redis.call('HSET', batch_key(args.batch), 'canceled', '1') end
  if args.is_complete then redis.call('HSET', batch_key(args.batch), 'generation', generation_id) end
  return {}
end

function commands.mark_resumable()
  journal.mark_resumable(args.batch)
  return {}
end

function commands.resumable_batches() return {journal.waiting_for_process(args.account)} end

function commands.take_over()
  if not journal.take_over(args.batch) then return {} end
  return {exact(now), journal.encode(args.batch)}
end

function commands.unstarted_tasks() return {journal.unstarted(args.batch, args.reasons)} end

function commands.cancel_batch()
  journal.cancel(args.batch, args.reasons)
  return {}
end

-- Return those of this process's batches that are marked as canceled, and those that others run.
function commands.list_canceled()
  local canceled, lost, holders_of = {}, {}, values_of(key.running, args.batches)
  for _, batch in ipairs(args.batches) do
    local marks = redis.call('HMGET', batch_key(batch), 'canceled', 'ended_at')
    if holders_of[batch] and holders_of[batch] ~= me then
      lost[#lost + 1] = batch
    elseif marks[1] and not marks[2] then
      canceled[#canceled + 1] = batch
    end
  end
  return {canceled, lost}
end

function commands.get_batch() return {journal.state(args.batch)} end

function commands.list_batches()
  local found = {}
  for _, caller in ipairs(args.callers) do
    local newest = redis.call('ZREVRANGE', caller_key(caller), 0, args.limit - 1)
    for _, batch in ipairs(newest) do found[#found + 1] = journal.summary(batch) end
  end
  return {found}
end

function commands.tasks() return {redis.call('LRANGE', tasks_key(args.batch), 0, -1)} end

function commands.inputs() return {redis.call('GET', inputs_key(args.batch)) or nil} end

function commands.results()
  return {redis.call('LRANGE', results_key(args.batch), args.after, args.last)}
end

function commands.list_prediction_ids() return {journal.recent_predictions(args.account)} end

-- Cached responses of Replicate's

function commands.set_cached()
  cache.put(args.key, args.value, args.seconds, args.size, args.max_bytes)
  return {}
end

function commands.get_cached() return {cache.get(args.key)} end
