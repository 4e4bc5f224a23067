-- The generation of the server's memory, which shows whether any of it was lost.
--
-- A restart, a failover or an old snapshot changes run_id; a lost key (evicted, deleted, flushed)
-- lacks the generation's mark. In both cases the running predictions are unknown, so a new
-- generation begins: nothing is admitted for one lease, in which every living process sends its
-- state again.

local function is_of_one_generation(id)
  for _, name in ipairs(GENERATION_KEYS) do
    if redis.call('HGET', key[name], '#') ~= id then return false end
  end
  return redis.call('ZSCORE', key.queue, '#' .. id)
end

local function begin(run, old)
  for _, name in ipairs(GENERATION_KEYS) do redis.call('DEL', key[name]) end
  redis.call('DEL', key.queue, key.stalled)
  local id = math.max(math.floor(server_time * 1000000), (tonumber(old.id) or 0) + 1)
  generation_id, opens_at = whole(id), server_time + lease / 1000
  for _, name in ipairs(GENERATION_KEYS) do redis.call('HSET', key[name], '#', generation_id) end
  redis.call('ZADD', key.queue, 0, '#' .. generation_id)
  redis.call('HSET', key.generation, 'id', generation_id, 'run', run,
    'began_at', exact(server_time), 'opens_at', exact(opens_at), 'reaped_at', '0', 'turn', '0',
    -- Data written before a restart may have been rolled back by it.
    'restarted', old.run == run and (old.restarted or generation_id) or generation_id)
  permits.reload_attempts()
end

-- Keep the pause within a lease if the clock was set back.
local function limit_pause_to_a_lease()
  local began_at = tonumber(redis.call('HGET', key.generation, 'began_at'))
  if server_time >= began_at then return end
  opens_at = opens_at - began_at + server_time
  redis.call('HSET', key.generation, 'began_at', exact(server_time), 'opens_at', exact(opens_at))
end

function generation.check()
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local kept = redis.call('HMGET', key.generation, 'id', 'run', 'opens_at', 'restarted')
  local old = {id = kept[1], run = kept[2], restarted = kept[4]}
  if old.run ~= run or not old.id or not is_of_one_generation(old.id) then
    return begin(run, old)
  end
  generation_id, opens_at = old.id, tonumber(kept[3])
  if server_time < opens_at then limit_pause_to_a_lease() end
end

function generation.is_admitting() return server_time >= opens_at end

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
