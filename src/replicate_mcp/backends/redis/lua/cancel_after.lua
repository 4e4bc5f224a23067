-- The Cancel-After of an attempt: what distinct_cancel_after in attempts.py chooses.
-- Both are tried on the same numbers by the tests: change one, and change the other.

local APART_SECONDS = 3
local SHORTEST_CANCEL_AFTER = 5

-- The longest, at most `wanted`, that none in use comes near; `used` has them as keys.
local function distinct_cancel_after(wanted, used)
  local shortest = math.max(SHORTEST_CANCEL_AFTER, math.floor(wanted / 2))
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
