-- The Cancel-After of an attempt: the same as distinct_cancel_after in
-- replicate_api/attempt_matching.py.
-- Tests run both on the same numbers: keep the two in step.

local APART_SECONDS = 3
local MIN_CANCEL_AFTER = 5

-- Return the longest, at most `wanted`, that is distinct from those in use, the keys of `used`.
local function distinct_cancel_after(wanted, used)
  local shortest = math.max(MIN_CANCEL_AFTER, math.floor(wanted / 2))
  for _, apart in ipairs({APART_SECONDS, 1}) do
    for seconds = wanted, shortest, -apart do
      local near = false
      for distance = 1 - apart, apart - 1 do near = near or used[seconds + distance] end
      if not near then return seconds end
    end
  end
  return wanted
end

return distinct_cancel_after
