-- The renewal of a lease, in a small script: every process calls it all the time.

-- Return an account's rate with its digest, as fields and values, or nil if the process has mirrored
-- that rate: to encode it takes longer than the rest of the call.
local function changed_rate(account)
  local packed = redis.call('HGET', key.rates, account)
  local digest = packed and redis.sha1hex(packed) or ''
  if digest == (args.mirrored[account] or '') then return nil end
  local values = {account, digest}
  local state = packed and cmsgpack.unpack(packed) or {}
  for field, value in pairs(state) do
    values[#values + 1], values[#values + 2] = field, exact(value)
  end
  return values
end

-- Return the seconds for which nothing can become an orphan without a message to all processes,
-- since no lease ends before; 0 if there are orphans.
local function quiet_for()
  if redis.call('ZCARD', key.orphans) > 1 then return 0 end
  return leases.first_ends_in()
end

-- Renew the lease; return the shared state that a process mirrors in case it is lost here.
-- `args.mirrored` has the digests of the rates that it has mirrored, by account.
function commands.renew()
  local set, known_rates, images = {}, {}, {}
  for name, each in each_record(key.set) do
    set[#set + 1] = {name, whole(each.units), each.by_admin and '1' or '', exact(each.at)}
  end
  local today = math.floor(now / DAY)
  for _, account in ipairs(args.accounts) do
    known_rates[#known_rates + 1] = changed_rate(account)
    local count = redis.call('GET', images_key(account, today))
    if count then images[#images + 1] = {account, whole(today), count} end
  end
  return {set, known_rates, images, exact(quiet_for())}
end
