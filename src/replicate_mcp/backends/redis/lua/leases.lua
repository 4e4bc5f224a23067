-- The leases of processes as holders, on the server's clock.
--
-- A holder is alive until the end of its lease. In `holders`, the field 'since ' and its name says
-- when its unbroken contact began, and 'sequence ' and its name the number of its last call.

local UNREGISTERED = ''   -- stands for every holder that is not registered

local function since_field(holder) return 'since ' .. holder end
local function sequence_field(holder) return 'sequence ' .. holder end

local label, since, last_sequence, ends_at   -- this process's, once loaded

function leases.load()
  local kept = redis.call('HMGET', key.holders, me, since_field(me), sequence_field(me))
  label, since, last_sequence = kept[1], tonumber(kept[2]), tonumber(kept[3])
  ends_at = tonumber(redis.call('ZSCORE', key.leases, me))
end

function leases.is_known(holder) return redis.call('HEXISTS', key.holders, holder) == 1 end

function leases.is_registered()
  return label and ends_at ~= nil and ends_at > server_time
end

function leases.is_late() return last_sequence ~= nil and sequence < last_sequence end

function leases.advance_sequence()
  redis.call('HSET', key.holders, sequence_field(me), whole(sequence))
end

local function set_end(at)
  -- A full memory refuses ZADD, but not after a write that frees memory.
  redis.call('ZREM', key.leases, me)
  redis.call('ZADD', key.leases, exact(at), me)
end

function leases.renew() set_end(server_time + lease / 1000) end

-- End this process's lease until `begin`: if it cannot send its state, it is dead for the others.
function leases.suspend() set_end(0) end

function leases.begin(name)
  redis.call('HSET', key.holders, me, name, since_field(me), exact(server_time),
    sequence_field(me), whole(sequence))
  leases.renew()
end

function leases.remove(holder)
  redis.call('HDEL', key.holders, holder, since_field(holder), sequence_field(holder))
  redis.call('ZREM', key.leases, holder)
end

-- Expect the holders of the generation before to register; those that have not when admission
-- opens are dead.
function leases.expect_all() redis.call('ZADD', key.leases, 0, UNREGISTERED) end

-- Return the holders whose lease has ended, as keys.
function leases.ended()
  local dead = {}
  for _, holder in ipairs(redis.call('ZRANGEBYSCORE', key.leases, '-inf', exact(server_time))) do
    dead[holder] = true
  end
  return dead
end

-- Return the seconds until the first lease ends, at most this process's own; 0 if one has ended.
function leases.first_ends_in()
  local first = redis.call('ZRANGE', key.leases, 0, 0, 'WITHSCORES')
  return math.max(0, tonumber(first[2]) - server_time)
end

-- Return whether a holder is one of `dead`, as `ended` returns them.
function leases.is_among(dead, holder)
  return dead[holder] or (dead[UNREGISTERED] and not leases.is_known(holder)) or false
end

-- Return whether this process may declare others dead: it must have been connected for a whole
-- lease itself, by the clocks of this server and its own, so that they had time to reconnect.
function leases.may_declare_dead()
  if args.unbroken ~= true or not generation.is_admitting() or not since then return false end
  if since > server_time then
    since = server_time
    redis.call('HSET', key.holders, since_field(me), exact(server_time))
    return false
  end
  return server_time >= since + lease / 1000
end
