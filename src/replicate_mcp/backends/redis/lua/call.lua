-- The call of a command.
--
-- The reply is 'ok' and the result, or 'register' and the generation if this server does not know
-- the process (any more): the process then sends its state and repeats the call.

-- Commands that free something or must not be lost: they work when the memory is full. A script
-- that has written once may continue to write, and renewing the lease is a write that is always
-- allowed.
local ALLOWED_WHEN_FULL = {
  renew = true, dequeue = true, release = true, requeue = true, give_back = true, finish = true,
  record_results = true, abandon = true, adopt = true, claim_prediction = true,
  cancel_batch = true, close = true, restore_batch = true, admit = true, orphans = true,
  semaphores = true, mark_resumable = true, unstarted_tasks = true,
}

function answer()
  local is_current = generation.check()
  if generation.is_newer() then return {'newer'} end
  if command == 'register' and not is_current then generation.begin() end
  leases.load()
  if command ~= 'register' and not (is_current and leases.is_registered()) then
    return {'register', generation_id}
  end
  if sequence > 0 then
    -- An abandoned call that arrives after a later one must have no effect.
    if leases.is_late() then return {'late'} end
    if ALLOWED_WHEN_FULL[command] then leases.renew() end
    if command ~= 'register' then leases.advance_sequence() end
  end
  local reply = commands[command]()
  if space.settle then space.settle() end  -- It is not in the script of `renew`.
  if journal.has_new_waiting then
    redis.call('PUBLISH', prefix .. 'orphans', 'batch')  -- Wakes every process.
  elseif permits.has_new_orphans then
    redis.call('PUBLISH', prefix .. 'orphans', '')
  end
  return {'ok', unpack(reply)}
end
