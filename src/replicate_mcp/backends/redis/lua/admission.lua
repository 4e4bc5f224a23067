-- The admission decision: the same as `admit` in semaphores/admission.py, on the same state.
-- Tests run both on the same queues: keep the two in step.

local admission = {}

admission.OFFER_STALE_SECONDS = 0.05
admission.OFFER_TTL_SECONDS = 0.5

-- Return when a paused or empty bucket next allows a creation that an entry waits for.
local function next_time(queue, waiting, rates, slots, now)
  local wanted, soonest = {}, nil
  for _, entry in ipairs(queue) do
    if entry.account and waiting[entry.id] > 0 then wanted[entry.account] = true end
  end
  for account in pairs(wanted) do
    local state = rates[account]
    if state then
      local missing = math.max(0, 1 - slots[account])
      local at = math.max(state.paused_until, state.at + missing * 60 / state.per_minute)
      if at > now and (not soonest or at < soonest) then soonest = at end
    end
  end
  return soonest
end

-- Args:
--   queue: entries in turn, each {id, holder, semaphores, account, waiting, running, max_running}.
--   free: units of each semaphore that are not in use.
--   rates: each account's rate, as of `now`.
--   stalled: holders that have not accepted their offers, as keys.
-- Returns the ids of the entries to make offers to, in order, and when to decide again, or nil.
function admission.admit(queue, free, rates, stalled, now)
  local left, slots, waiting, running = {}, {}, {}, {}
  for name, units in pairs(free) do left[name] = units end
  for account, state in pairs(rates) do slots[account] = state.tokens end
  local in_turn, first, last = {}, 1, 0
  for _, entry in ipairs(queue) do
    waiting[entry.id], running[entry.id] = entry.waiting, entry.running
    local state = entry.account and rates[entry.account]
    if not stalled[entry.holder] and not (state and state.paused_until > now) then
      last = last + 1
      in_turn[last] = entry
    end
  end

  local grants, reserved = {}, false
  while first <= last do
    local entry = in_turn[first]
    in_turn[first] = nil
    first = first + 1
    local id, account = entry.id, entry.account
    local done = entry.max_running and running[id] >= entry.max_running
    if not done and waiting[id] > 0 then
      local slot = not account or (slots[account] or 0) >= 1
      local fits = slot
      for _, name in ipairs(entry.semaphores) do fits = fits and (left[name] or 0) > 0 end
      if fits then
        for _, name in ipairs(entry.semaphores) do left[name] = left[name] - 1 end
        if account then slots[account] = slots[account] - 1 end
        waiting[id], running[id] = waiting[id] - 1, running[id] + 1
        grants[#grants + 1] = id
        last = last + 1
        in_turn[last] = entry
      elseif not reserved then
        -- First in turn: the units that are free now are reserved for it.
        reserved = true
        for _, name in ipairs(entry.semaphores) do
          left[name] = math.max(0, (left[name] or 0) - 1)
        end
        if account and slot then slots[account] = slots[account] - 1 end
      end
    end
  end
  return grants, next_time(queue, waiting, rates, slots, now)
end

return admission
