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

-- Write a new batch, or restore a lost one.
function journal.open(batch, fields)
  redis.call('HSET', batch_key(batch), 'caller', fields.caller, 'account', fields.account,
    'semaphore', fields.semaphore, 'total', whole(#fields.tasks), 'succeeded', '0', 'failed', '0',
    'created_at', exact(fields.created_at or now), 'generation', generation_id)
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
  redis.call('ZADD', caller, exact(fields.created_at or now), batch)
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

-- Fail a batch's tasks that have neither a result nor a permit: no process will run them.
local function end_waiting_tasks_of(batch, with_permit, reasons)
  local since = redis.call('HGET', batch_key(batch), 'generation')
  redis.call('HDEL', key.running, batch)
  if not since then return end
  redis.call('HSET', batch_key(batch), 'taken_over', '1')
  local reason = generation.may_be_rolled_back(since) and reasons.unsure or reasons.interrupted
  local rows = {}
  for place, kept in ipairs(redis.call('LRANGE', tasks_key(batch), 0, -1)) do
    local task = place - 1
    if not with_permit[batch .. ' ' .. task] then rows[#rows + 1] = row(task, kept, reason) end
  end
  journal.record(batch, rows)
end

-- End the waiting tasks of these batches.
function journal.end_batches(batches, reasons)
  if #batches == 0 then return end
  local with_permit = {}
  for _, record in each_record(key.permits) do
    if record.task then with_permit[record.entry .. ' ' .. whole(record.task)] = true end
  end
  for _, batch in ipairs(batches) do end_waiting_tasks_of(batch, with_permit, reasons) end
end

-- End the waiting tasks of dead holders' batches; `dead` is as `leases.ended` returns it.
function journal.end_batches_of(dead, reasons)
  local batches = {}
  for batch, holder in each_field(key.running) do
    if leases.is_among(dead, holder) then batches[#batches + 1] = batch end
  end
  journal.end_batches(batches, reasons)
end

-- Return whether others ended the batch's waiting tasks because its process seemed dead.
function journal.was_taken_over(batch)
  return redis.call('HEXISTS', batch_key(batch), 'taken_over') == 1
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
    'succeeded', 'failed', 'canceled', 'created_at', 'ended_at', 'retry_of', 'retried')
  if not kept[1] then return nil end
  local state = {batch}
  for place = 1, 11 do state[place + 1] = kept[place] or '' end
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

function journal.cancel(batch)
  if journal.exists(batch) and redis.call('HEXISTS', batch_key(batch), 'ended_at') == 0 then
    redis.call('HSET', batch_key(batch), 'canceled', '1')
  end
  local holder = redis.call('HGET', key.running, batch)
  if holder then redis.call('PUBLISH', channel(holder), '') end
end
