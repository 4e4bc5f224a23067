-- The state shared by all processes that each mirrors in case it is lost here: the limits that were
-- set, and the rates and today's images of its accounts. It is a file of its own for two small
-- scripts, since every process asks for it all the time.

local function exact(number) return string.format('%.17g', number) end
local function whole(number) return string.format('%.0f', number) end

-- Return an account's rate with its digest, as fields and values, or nil if the process has mirrored
-- that rate: to encode it takes longer than the rest of the call.
local function changed_rate(prefix, account, mirrored)
  local packed = redis.call('HGET', prefix .. 'rates', account)
  local digest = packed and redis.sha1hex(packed) or ''
  if digest == (mirrored or '') then return nil end
  local values = {account, digest}
  local state = packed and cmsgpack.unpack(packed) or {}
  for field, value in pairs(state) do
    values[#values + 1], values[#values + 2] = field, exact(value)
  end
  return values
end

-- Args:
--   accounts: the accounts of the process.
--   mirrored: the digests of the rates that it has mirrored, by account.
--   now: the time in seconds.
return function(prefix, accounts, mirrored, now)
  local set, rates, images = {}, {}, {}
  local flat = redis.call('HGETALL', prefix .. 'set')
  for i = 1, #flat, 2 do
    if flat[i] ~= '#' then
      local each = cmsgpack.unpack(flat[i + 1])
      set[#set + 1] = {flat[i], whole(each.units), each.by_admin and '1' or '', exact(each.at)}
    end
  end
  local today = whole(math.floor(now / 86400))
  for _, account in ipairs(accounts) do
    rates[#rates + 1] = changed_rate(prefix, account, mirrored[account])
    local count = redis.call('GET', prefix .. 'images:' .. account .. ':' .. today)
    if count then images[#images + 1] = {account, today, count} end
  end
  return {set, rates, images}
end
