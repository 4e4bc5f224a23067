-- The generation of the server's memory, which shows whether any of it was lost.
--
-- A restart, a failover or an old snapshot changes run_id; a lost key (evicted, deleted, flushed) is
-- missing, and the permits of another generation have another id. In all cases the running
-- predictions are unknown, so a new generation begins: nothing is admitted for one lease, in which
-- every living process sends its state again. The same happens to the state of another version.

local LAYOUT = 4   -- of the keys; increase it with each change that other versions cannot read

local run, old

-- Return whether the memory is still that of one generation. If it is not, only `register` begins
-- a new one; every other call is answered with the request to register.
function generation.check()
  run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local kept = redis.call('HMGET', key.generation, 'id', 'run', 'opens_at', 'restarted', 'layout')
  old = {id = kept[1], run = kept[2], restarted = kept[4], layout = tonumber(kept[5])}
  generation_id, opens_at = old.id or '', tonumber(kept[3]) or 0
  if old.run ~= run or not old.id or old.layout ~= LAYOUT or
    redis.call('HGET', key.permits, '#') ~= old.id or
    redis.call('EXISTS', unpack(generation_keys)) < #generation_keys then return false end
  if server_time < opens_at then generation.limit_pause() end
  return true
end

-- Return whether a newer version of the program keeps its state here.
function generation.is_newer() return old.layout ~= nil and old.layout > LAYOUT end

function generation.begin()
  -- Without an id, an interrupted call does not leave a generation that seems complete.
  redis.call('HDEL', key.generation, 'id')
  redis.call('DEL', key.stalled, unpack(generation_keys))
  local id = math.max(math.floor(server_time * 1000000), (tonumber(old.id) or 0) + 1)
  generation_id, opens_at = whole(id), server_time + lease / 1000
  for _, name in ipairs(GENERATION_HASHES) do redis.call('HSET', key[name], '#', generation_id) end
  for name, score in pairs(GENERATION_SETS) do redis.call('ZADD', key[name], score, '#') end
  redis.call('HSET', key.generation, 'id', generation_id, 'run', run, 'layout', whole(LAYOUT),
    'began_at', exact(server_time), 'opens_at', exact(opens_at), 'reaped_at', '0', 'turn', '0',
    -- Data written before a restart may have been rolled back by it.
    'restarted', old.run == run and (old.restarted or generation_id) or generation_id)
  leases.expect_all()
  permits.reload_attempts()
end

function generation.is_admitting() return server_time >= opens_at end

-- Keep the pause within a lease if the clock was set back.
function generation.limit_pause()
  local began_at = tonumber(redis.call('HGET', key.generation, 'began_at'))
  if server_time >= began_at then return end
  opens_at = opens_at - began_at + server_time
  redis.call('HSET', key.generation, 'began_at', exact(server_time), 'opens_at', exact(opens_at))
end

-- Extend the pause to this process's lease, if longer: it needs that time to send its state.
function generation.extend_to_lease()
  if generation.is_admitting() then return end
  local began_at = tonumber(redis.call('HGET', key.generation, 'began_at'))
  if began_at + lease / 1000 > opens_at then
    opens_at = began_at + lease / 1000
    redis.call('HSET', key.generation, 'opens_at', exact(opens_at))
  end
end

-- Return whether the batch data of `since` may miss changes, because of a later restart.
function generation.may_be_rolled_back(since)
  local restarted = tonumber(redis.call('HGET', key.generation, 'restarted'))
  return not since or tonumber(since) < restarted
end
