-- An account's rate: the same as semaphores/rate_limit.py and adaptive_rate.py, on tables changed
-- in place.
-- Tests run both on the same histories: keep the two in step.

local rate_limit = {}

local RECENT_SECONDS = 10
local RECENT_CREATIONS = 10
local CEILING_SECONDS = 600
local CEILING_SHARE = 0.9
local INCREASE_FACTOR = 1.25
local INCREASE_CREATIONS = 2
local DECREASE_FACTOR = 2.5
local MAX_CONSECUTIVE_DECREASES = 10
local MAX_THROTTLED_SHARE = 0.5
local THROTTLED_SHARE_SAMPLE = 20
local FIRST_PAUSE = 1
local MIN_PAUSE_SECONDS = 0.1
local MAX_PAUSE_SECONDS = 300
local SLOWEST_PER_MINUTE = 1
local BURST_HEADROOM_SECONDS = 0.5

-- In the order in which a rate is encoded.
rate_limit.FIELDS = {
  'full_per_minute', 'per_minute', 'burst', 'tokens', 'at', 'paused_until', 'episode_at', 'pauses',
  'accepted', 'since', 'last_sent', 'steady', 'ceiling', 'ceiling_until',
  'lowerings', 'refused', 'by_hand',
}

local function full_burst(per_minute)
  return math.max(1, per_minute - per_minute / 60 * BURST_HEADROOM_SECONDS)
end

function rate_limit.initial(per_minute, now)
  local state = {}
  for _, field in ipairs(rate_limit.FIELDS) do state[field] = 0 end
  state.full_per_minute, state.per_minute = per_minute, per_minute
  state.burst = full_burst(per_minute)
  state.tokens, state.at = state.burst, now
  return state
end

function rate_limit.is_lowered(state)
  return state.per_minute < state.full_per_minute
    or state.burst < full_burst(state.full_per_minute)
end

-- Reset recorded times that lie ahead: they would block the account until then.
local function clock_set_back(state, now)
  state.at = now
  state.paused_until, state.ceiling_until = 0, 0
  state.episode_at = math.min(state.episode_at, now)
  state.since = math.min(state.since, now)
  state.last_sent = math.min(state.last_sent, now)
end

function rate_limit.refilled_at(state, now)
  if now < state.at then clock_set_back(state, now) end
  local filled = state.tokens + (now - state.at) * state.per_minute / 60
  state.tokens, state.at = math.min(state.burst, filled), now
  return state
end

local function under(state, per_minute, now)
  if per_minute == state.full_per_minute then return state end
  rate_limit.refilled_at(state, now)
  local learned, burst = per_minute, full_burst(per_minute)
  if rate_limit.is_lowered(state) then
    learned, burst = math.min(per_minute, state.per_minute), math.min(burst, state.burst)
  end
  state.full_per_minute, state.per_minute, state.burst = per_minute, learned, burst
  state.tokens = math.min(state.tokens, burst)
  return state
end

function rate_limit.with_configured(state, per_minute, now)
  if state.by_hand == 1 then return state end
  return under(state, per_minute, now)
end

function rate_limit.with_manual(state, per_minute, now)
  under(state, per_minute, now)
  state.by_hand = 1
  return state
end

function rate_limit.next_available_at(state)
  local missing = math.max(0, 1 - state.tokens)
  return math.max(state.paused_until, state.at + missing * 60 / state.per_minute)
end

function rate_limit.consume(state, count)
  state.tokens = state.tokens - count
  return state
end

function rate_limit.refund(state, count)
  state.tokens = math.min(state.burst, state.tokens + count)
  return state
end

-- Adaptation to accepted and throttled creations

local function between_bounds(state, per_minute)
  return math.max(SLOWEST_PER_MINUTE, math.min(per_minute, state.per_minute))
end

local function accepted(state)
  return math.max(1, state.accepted) * 60 / math.max(1, state.at - state.since)
end

local function reset_old_counts(state)
  local window = math.max(RECENT_SECONDS, RECENT_CREATIONS * 60 / state.per_minute)
  local counted = state.at - state.since
  if state.episode_at > state.since then
    state.accepted, state.since = 0, state.episode_at
  elseif state.at - state.last_sent > window then
    state.accepted, state.since = 0, state.at
  elseif counted > 2 * window then
    state.accepted, state.since = state.accepted * window / counted, state.at - window
  end
end

local function grow(state)
  local top, under_a_ceiling = state.full_per_minute, state.at < state.ceiling_until
  if under_a_ceiling then top = math.min(top, state.ceiling * CEILING_SHARE) end
  state.per_minute = math.max(state.per_minute, math.min(top, state.per_minute * INCREASE_FACTOR))
  if state.per_minute == state.full_per_minute and not under_a_ceiling then
    state.burst = full_burst(state.per_minute)
  end
  state.steady = 0
end

function rate_limit.on_sent(state, count)
  reset_old_counts(state)
  state.accepted, state.steady = state.accepted + count, state.steady + count
  state.last_sent = state.at
  state.refused = state.refused * (1 - 1 / THROTTLED_SHARE_SAMPLE) ^ count
  if rate_limit.is_lowered(state) and state.steady >= INCREASE_CREATIONS then grow(state) end
  return state
end

local function learned(state, throttling)
  if throttling.per_minute then return throttling.per_minute * CEILING_SHARE end
  if not rate_limit.is_lowered(state) then return accepted(state) end
  local by = state.accepted >= INCREASE_CREATIONS and INCREASE_FACTOR or DECREASE_FACTOR
  return math.max(accepted(state), state.per_minute / by)
end

local function same_episode(state, throttling)
  local pause = math.min(throttling.retry_after or 0, MAX_PAUSE_SECONDS)
  if state.since <= state.episode_at and not throttling.per_minute then
    state.per_minute = between_bounds(state, accepted(state))
  end
  state.paused_until = math.max(state.paused_until, state.at + pause)
  return state
end

local function lower(state, throttling)
  local per_minute = between_bounds(state, learned(state, throttling))
  state.ceiling = throttling.per_minute or math.max(state.per_minute, accepted(state) / CEILING_SHARE)
  state.per_minute, state.burst = per_minute, math.max(1, throttling.burst or 1)
  state.tokens, state.steady = 0, 0
  state.ceiling_until = state.at + CEILING_SECONDS
end

-- `throttling` has `retry_after`, `per_minute` and `burst` if the 429 named them.
function rate_limit.on_throttled(state, throttling, sent_at)
  -- The state is new or was lost: the creations accepted before are unknown.
  if state.since == 0 then state.since = state.at end
  if sent_at >= state.since then state.accepted = math.max(0, state.accepted - 1) end
  state.refused = math.min(1, state.refused + 1 / THROTTLED_SHARE_SAMPLE)
  if state.episode_at ~= 0 and sent_at <= state.episode_at then return same_episode(state, throttling) end
  local pauses = 0
  if state.episode_at ~= 0 and state.accepted < 1 then pauses = state.pauses + 1 end
  local pause = throttling.retry_after or FIRST_PAUSE * 2 ^ math.min(pauses, 8)
  state.pauses = pauses
  state.paused_until = state.at + math.min(math.max(pause, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
  local in_a_row = state.at < state.episode_at + CEILING_SECONDS and state.lowerings or 0
  if in_a_row == MAX_CONSECUTIVE_DECREASES and state.refused < MAX_THROTTLED_SHARE and not throttling.per_minute then
    state.ceiling_until = state.at
  else
    lower(state, throttling)
    state.lowerings = in_a_row % MAX_CONSECUTIVE_DECREASES + 1
  end
  state.episode_at = state.at
  return state
end

return rate_limit
