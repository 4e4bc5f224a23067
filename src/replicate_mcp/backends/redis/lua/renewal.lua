-- The renewal of a lease where anything else has to be done first, such as registering.

-- Return the seconds for which nothing can become an orphan without a message to all processes,
-- since no lease ends before; 0 if there are orphans.
local function quiet_for()
  if redis.call('ZCARD', key.orphans) > 1 then return 0 end
  return leases.first_ends_in()
end

-- Renew the lease; return the shared state that a process mirrors in case it is lost here.
function commands.renew()
  return {exact(quiet_for()), shared_state(prefix, args.accounts, args.mirrored, now)}
end
