-- The journal: batches, their results in order of completion, and the owners of predictions.

-- Prediction ids are scored with the number of their permit, which is a time in microseconds.
local RECENT_PREDICTIONS = 2 * 3600

function journal.account_of(batch)
  return redis.call('HGET', batch_key(batch), 'account') or nil
end

local function keep(batch, seconds)
  for _, name in ipairs({batch_key(batch), tasks_key(batch), inputs_key(batch), results_key(batch)}) do
    redis.call('EXPIRE', name, seconds)
  end
  local request = redis.call('HGET', batch_key(batch), 'request')
  if request then redis.call('EXPIRE', request, seconds) end
end

-- Return the row of a task that failed without an attempt: the journal's fields and the reason.
local function row(task, kept, reason)
  return {task, false, '{"task_index":' .. whole(task) .. ',' .. reason .. ',' .. string.sub(kept, 2)}
end

-- Keep the tasks that others followed when this process took the batch over.
local function put_elsewhere(batch, tasks, in_generation)
  put_record(batch_key(batch), 'elsewhere', {tasks = tasks, generation = in_generation})
end

-- Write a new batch, or restore a lost one; `entry` has the semaphores, account and max_running of
-- its entry in the queue, from which that can be made again.
function journal.open(batch, fields, entry)
  local created_at = fields.created_at or now
  redis.call('HSET', batch_key(batch), 'caller', fields.caller, 'account', fields.account,
    'semaphore', fields.semaphore, 'total', whole(#fields.tasks), 'succeeded', '0', 'failed', '0',
    'created_at', exact(created_at), 'deadline', exact(created_at + fields.seconds),
    'generation', generation_id)
  if fields.resumable then journal.mark_resumable(batch) end
  if entry then
    redis.call('HSET', batch_key(batch), 'entry', cmsgpack.pack({
      semaphores = entry.semaphores, account = entry.account, max_running = entry.max_running,
    }))
  end
  if fields.elsewhere then put_elsewhere(batch, fields.elsewhere, '') end
  if fields.key then
    local request = request_key(fields.caller, fields.key)
    redis.call('SET', request, batch .. ' ' .. fields.digest)
    redis.call('HSET', batch_key(batch), 'request', request)
  end
  if fields.retry_of then
    redis.call('HSET', batch_key(batch), 'retry_of', fields.retry_of, 'retried', fields.retried)
  end
  redis.call('DEL', tasks_key(batch), inputs_key(batch), results_key(batch))
  redis.call('RPUSH', tasks_key(batch), unpack(fields.tasks))
  if fields.inputs then redis.call('SET', inputs_key(batch), fields.inputs) end
  redis.call('HSET', key.running, batch, me)
  local caller = caller_key(fields.caller)
  redis.call('ZADD', caller, exact(created_at), batch)
  redis.call('ZREMRANGEBYSCORE', caller, '-inf', exact(now - RUNNING_BATCH_SECONDS))
  redis.call('EXPIRE', caller, RUNNING_BATCH_SECONDS)
  keep(batch, RUNNING_BATCH_SECONDS)
  space.begin(fields.account, batch, fields)
  local rows = {}
  for place, failure in ipairs(fields.failures or {}) do
    rows[place] = row(failure[1], fields.tasks[failure[1] + 1], failure[2])
  end
  if #rows > 0 then journal.record(batch, rows) end
end

-- Delete an ended batch early; return whether its idempotency key remains, so that its request is
-- not carried out again.
function journal.delete(batch, expires_at)
  local kept = redis.call('HMGET', batch_key(batch), 'caller', 'request')
  redis.call('DEL', batch_key(batch), tasks_key(batch), inputs_key(batch), results_key(batch))
  if kept[1] then redis.call('ZREM', caller_key(kept[1]), batch) end
  local value = kept[2] and redis.call('GET', kept[2])
  if not value or string.match(value, '^%S+') ~= batch then return false end
  local milliseconds = math.max(1, math.ceil((expires_at - now) * 1000))
  redis.call('SET', kept[2], '!' .. exact(expires_at) .. ' ' .. value, 'PX', milliseconds)
  return true
end

-- Return the batch that the caller's request of that key began, the digest of the request, and
-- whether the batch was deleted early.
function journal.find_by_key(caller, name)
  local kept = name and redis.call('GET', request_key(caller, name))
  if not kept then return nil end
  local expires_at, batch, digest = string.match(kept, '^!(%S+) (%S+) (.*)$')
  if expires_at then
    if tonumber(expires_at) > now then return batch, digest, true end
    return nil
  end
  batch, digest = string.match(kept, '^(%S+) (.*)$')
  if journal.exists(batch) then return batch, digest, false end
end

function journal.exists(batch) return redis.call('EXISTS', batch_key(batch)) == 1 end

local function waiting_member(account, batch) return account .. ' batch:' .. batch end

-- Record results, one per task; each is {task, whether it succeeded, its row}. Return false if the
-- batch is unknown.
function journal.record(batch, results)
  local kept = redis.call('HMGET', batch_key(batch), 'total', 'succeeded', 'failed', 'ended_at',
    'account')
  if not kept[1] then return false end
  local total, succeeded, failed = tonumber(kept[1]), tonumber(kept[2]), tonumber(kept[3])
  local account, rows = kept[5], {}
  for _, result in ipairs(results) do
    if redis.call('HSETNX', batch_key(batch), 't' .. whole(result[1]), '1') == 1 then
      redis.call('RPUSH', results_key(batch), result[3])
      rows[#rows + 1] = result[3]
      if result[2] then succeeded = succeeded + 1 else failed = failed + 1 end
    end
  end
  redis.call('HSET', batch_key(batch), 'succeeded', whole(succeeded), 'failed', whole(failed))
  space.grow(account, batch, rows)
  if succeeded + failed < total then
    redis.call('EXPIRE', results_key(batch), RUNNING_BATCH_SECONDS)
  elseif not kept[4] then
    redis.call('HSET', batch_key(batch), 'ended_at', exact(now))
    redis.call('HDEL', key.running, batch)
    queue.remove(batch)
    redis.call('ZREM', key.orphans, waiting_member(account, batch))
    keep(batch, JOURNAL_SECONDS)
    space.finish(account, batch)
  end
  return true
end

function journal.has_result(batch, task)
  return redis.call('HEXISTS', batch_key(batch), 't' .. whole(task)) == 1
end

function journal.end_task(batch, task, reason, prediction)
  local kept = redis.call('LINDEX', tasks_key(batch), task)
  if prediction then reason = reason .. ',"prediction_id":' .. cjson.encode(prediction) end
  if kept then journal.record(batch, {row(task, kept, reason)}) end
end

-- Return why a batch is not resumed if its process has ended, as one of the reasons; nil if it is.
local function why_not_resumable(batch)
  local kept = redis.call('HMGET', batch_key(batch), 'generation', 'resumable', 'entry', 'canceled',
    'deadline')
  if generation.may_be_rolled_back(kept[1]) then return 'unsure' end
  if not kept[2] or not kept[3] then return 'interrupted' end
  if kept[4] then return 'canceled' end
  if tonumber(kept[5]) <= now then return 'out_of_time' end
end

function journal.is_resumable(batch)
  return journal.exists(batch) and not why_not_resumable(batch)
end

-- Leave a batch without a process until one takes it over.
local function wait_for_process(batch)
  queue.give_to(batch, '')
  redis.call('HSET', key.running, batch, '')
  local member = waiting_member(journal.account_of(batch), batch)
  if redis.call('ZADD', key.orphans, 0, member) == 1 then journal.has_new_waiting = true end
end

-- Return the tasks of open attempts by batch, as keys.
local function tasks_with_permit()
  local tasks = {}
  for _, record in each_record(key.permits) do
    if record.task then
      tasks[record.entry] = tasks[record.entry] or {}
      tasks[record.entry][record.task] = true
    end
  end
  return tasks
end

-- Fail a batch's tasks that have neither a result nor a permit: no process will run them.
local function end_waiting_tasks_of(batch, with_permit, reason)
  redis.call('HDEL', key.running, batch)
  redis.call('ZREM', key.orphans, waiting_member(journal.account_of(batch), batch))
  queue.remove(batch)
  redis.call('HSET', batch_key(batch), 'taken_over', '1')
  local rows = {}
  for place, kept in ipairs(redis.call('LRANGE', tasks_key(batch), 0, -1)) do
    local task = place - 1
    if not with_permit[task] then rows[#rows + 1] = row(task, kept, reason) end
  end
  journal.record(batch, rows)
end

-- End the waiting tasks of these batches, which have no process, or let another one resume them.
function journal.end_batches(batches, reasons)
  local with_permit
  for _, batch in ipairs(batches) do
    local reason = journal.exists(batch) and why_not_resumable(batch)
    if reason then
      with_permit = with_permit or tasks_with_permit()
      end_waiting_tasks_of(batch, with_permit[batch] or {}, reasons[reason])
    elseif reason == nil then
      wait_for_process(batch)
    else
      redis.call('HDEL', key.running, batch)
      queue.remove(batch)
    end
  end
end

-- End the waiting tasks of the batches that wait for a process in vain.
function journal.end_waiting_batches(reasons)
  local batches = {}
  for _, member in ipairs(redis.call('ZRANGE', key.orphans, 0, -1)) do
    local batch = string.match(member, ' batch:(.*)$')
    batches[#batches + 1] = batch
    if batch and not journal.exists(batch) then redis.call('ZREM', key.orphans, member) end
  end
  journal.end_batches(batches, reasons)
end

-- End the waiting tasks of dead holders' batches; `dead` is as `leases.ended` returns it.
function journal.end_batches_of(dead, reasons)
  local batches = {}
  for batch, holder in each_field(key.running) do
    if leases.is_among(dead, holder) then batches[#batches + 1] = batch end
  end
  journal.end_batches(batches, reasons)
end

-- Return whether others have ended the waiting tasks of a batch that this process runs, or run it
-- on, because this process seemed dead.
--
-- Args:
--   resumed: how often the batch had been taken over when this process began to run it; -1 if this
--     process knows that it does not run the batch any more.
function journal.is_taken_over(batch, resumed)
  local kept = redis.call('HMGET', batch_key(batch), 'taken_over', 'resumed')
  if kept[1] then return true end
  local latest = tonumber(kept[2] or 0)
  -- Memory that was lost or rolled back may know less than the process that ran the batch last.
  return resumed < latest or (resumed == latest and not journal.is_run_here(batch))
end

function journal.is_run_here(batch)
  local holder = redis.call('HGET', key.running, batch)
  return not holder or holder == me
end

-- Make this process the one that runs a batch, unless that has ended.
function journal.run(batch, resumed)
  if redis.call('HEXISTS', batch_key(batch), 'ended_at') == 1 then return end
  redis.call('HSET', key.running, batch, me)
  if resumed > 0 then redis.call('HSET', batch_key(batch), 'resumed', whole(resumed)) end
  redis.call('ZREM', key.orphans, waiting_member(journal.account_of(batch), batch))
  queue.give_to(batch, me)
end

-- Batches that other processes resume

function journal.mark_resumable(batch)
  if journal.exists(batch) and redis.call('HEXISTS', batch_key(batch), 'ended_at') == 0 then
    redis.call('HSET', batch_key(batch), 'resumable', '1')
  end
end

-- Forget the entry of a batch of which its process creates nothing more.
function journal.forget_entry(batch) redis.call('HDEL', batch_key(batch), 'entry') end

-- Return the account's batches that wait for a process, in queue order.
function journal.waiting_for_process(account)
  local first, batches, turns = waiting_member(account, ''), {}, {}
  local after = account .. ' batch;'   -- ';' follows the colon.
  local members = redis.call('ZRANGEBYLEX', key.orphans, '[' .. first, '(' .. after)
  for place, member in ipairs(members) do batches[place] = string.sub(member, #first + 1) end
  for batch, packed in pairs(values_of(key.entries, batches)) do
    turns[batch] = cmsgpack.unpack(packed).turn
  end
  -- An entry is missing after a loss of memory, until the batch is taken over.
  local function turn(batch) return turns[batch] or math.huge end
  table.sort(batches, function(a, b)
    if turn(a) == turn(b) then return a < b end
    return turn(a) < turn(b)
  end)
  return batches
end

local function entry_of(batch) return record_of(batch_key(batch), 'entry') end

-- Let this process resume a batch that waits for one; return whether it does now. Nothing is taken
-- over before every living process has sent its state again after a loss of memory.
function journal.take_over(batch)
  local holder = redis.call('HGET', key.running, batch)
  if holder == me then return true end  -- The reply was lost.
  if holder ~= '' or not generation.is_admitting() or not journal.is_resumable(batch) then
    return false
  end
  local entry, tasks = entry_of(batch), {}
  queue.enqueue({
    entry = batch, semaphores = entry.semaphores, account = entry.account,
    max_running = entry.max_running, wanted = 0,
  })
  journal.run(batch, tonumber(redis.call('HGET', batch_key(batch), 'resumed') or 0) + 1)
  for task in pairs(tasks_with_permit()[batch] or {}) do tasks[#tasks + 1] = task end
  put_elsewhere(batch, tasks, generation_id)
  return true
end

-- Return the indexes of a batch's tasks with neither a result nor a permit.
--
-- If the memory was lost after this process took the batch over, the results of tasks that others
-- followed then may be lost, too: these end, since they may have been created.
function journal.unstarted(batch, reasons)
  local kept = redis.call('HMGET', batch_key(batch), 'total', 'elsewhere')
  if not kept[1] or not generation.is_admitting() then return {} end
  local elsewhere, lost = kept[2] and cmsgpack.unpack(kept[2]), {}
  if elsewhere and elsewhere.generation ~= generation_id then
    for _, task in ipairs(elsewhere.tasks) do lost[task] = true end
  end
  local fields, unstarted, with_permit = {}, {}, tasks_with_permit()[batch] or {}
  for task = 0, tonumber(kept[1]) - 1 do fields[task + 1] = 't' .. whole(task) end
  local ended = values_of(batch_key(batch), fields)
  for place, field in ipairs(fields) do
    local task = place - 1
    if not ended[field] and not with_permit[task] then
      if lost[task] then
        journal.end_task(batch, task, reasons.unsure)
      else
        unstarted[#unstarted + 1] = whole(task)
      end
    end
  end
  return unstarted
end

-- Encode a complete batch for the process that has taken it over to mirror.
function journal.encode(batch)
  local kept = redis.call('HMGET', batch_key(batch), 'deadline', 'request', 'caller')
  local request, name, digest = kept[2] and redis.call('GET', kept[2]), '', ''
  if request then
    name = string.sub(kept[2], #request_key(kept[3], '') + 1)
    digest = string.match(request, '^%S+ (.*)$')
  end
  local entry, elsewhere = entry_of(batch), {}
  for place, task in ipairs(record_of(batch_key(batch), 'elsewhere').tasks) do
    elsewhere[place] = whole(task)
  end
  return {
    journal.state(batch), kept[1], name, digest, redis.call('GET', inputs_key(batch)) or '',
    entry.semaphores, entry.account or '', entry.max_running and whole(entry.max_running) or '',
    elsewhere, redis.call('LRANGE', tasks_key(batch), 0, -1),
    redis.call('LRANGE', results_key(batch), 0, -1),
  }
end

-- Predictions

-- Claim a prediction permanently for an attempt; return false if another attempt has it.
--
-- A prediction imported from the account's list may turn out to belong to a lost attempt: its
-- negative score marks it as claimable.
function journal.claim(account, prediction, permit)
  local predictions = predictions_key(account)
  local owner = tonumber(redis.call('ZSCORE', predictions, prediction))
  if owner and owner ~= tonumber(permit) then
    if owner > 0 then return false end
    permits.free(whole(-owner), true)
  end
  if owner ~= tonumber(permit) then
    redis.call('ZADD', predictions, permit, prediction)
    local old = whole((server_time - JOURNAL_SECONDS) * 1000000)
    redis.call('ZREMRANGEBYSCORE', predictions, '-' .. old, old)
    redis.call('EXPIRE', predictions, 2 * DAY)
  end
  local record = permits.get(permit)
  if record then permits.set_prediction(permit, record, prediction) end
  return true
end

-- Return whether a prediction has an attempt, or a permit of its own.
function journal.is_claimed(account, prediction)
  local owner = tonumber(redis.call('ZSCORE', predictions_key(account), prediction))
  return owner and (owner > 0 or permits.get(whole(-owner))) and true or false
end

-- Claim a prediction without a known attempt; an attempt that reports it later takes it over.
function journal.claim_untracked(account, prediction, permit)
  redis.call('ZADD', predictions_key(account), '-' .. permit, prediction)
  redis.call('EXPIRE', predictions_key(account), 2 * DAY)
end

function journal.recent_predictions(account)
  local since = whole((server_time - RECENT_PREDICTIONS) * 1000000)
  return redis.call('ZRANGEBYSCORE', predictions_key(account), since, '+inf')
end

-- Encoding of batches

function journal.state(batch)
  local kept = redis.call('HMGET', batch_key(batch), 'caller', 'account', 'semaphore', 'total',
    'succeeded', 'failed', 'canceled', 'created_at', 'ended_at', 'retry_of', 'retried', 'resumed')
  if not kept[1] then return nil end
  local state = {batch}
  for place = 1, 12 do state[place + 1] = kept[place] or '' end
  return state
end

-- Return the same, with the beginning of its first task.
function journal.summary(batch)
  local state = journal.state(batch)
  if state then
    state[#state + 1] = string.sub(redis.call('LINDEX', tasks_key(batch), 0) or '', 1, 2000)
  end
  return state
end

function journal.cancel(batch, reasons)
  if journal.exists(batch) and redis.call('HEXISTS', batch_key(batch), 'ended_at') == 0 then
    redis.call('HSET', batch_key(batch), 'canceled', '1')
  end
  local holder = redis.call('HGET', key.running, batch)
  if holder == '' then
    journal.end_batches({batch}, reasons)
  elseif holder then
    redis.call('PUBLISH', channel(holder), '')
  end
end
