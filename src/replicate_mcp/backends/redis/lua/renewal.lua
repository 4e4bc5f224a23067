-- The renewal of a lease, in a small script: every process calls it all the time.

-- Renew the lease; return the shared state that a process mirrors in case it is lost here.
function commands.renew()
  local set, known_rates, images = {}, {}, {}
  for name, each in each_record(key.set) do
    set[#set + 1] = {name, whole(each.units), each.by_admin and '1' or '', exact(each.at)}
  end
  local today = math.floor(now / DAY)
  for _, account in ipairs(args.accounts) do
    local state = record_of(key.rates, account)
    if state then
      local values = {account}
      for _, field in ipairs(rate_limit.FIELDS) do values[#values + 1] = exact(state[field] or 0) end
      known_rates[#known_rates + 1] = values
    end
    local count = redis.call('GET', images_key(account, today))
    if count then images[#images + 1] = {account, whole(today), count} end
  end
  return {set, known_rates, images}
end
