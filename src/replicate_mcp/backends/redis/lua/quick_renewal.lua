-- The renewal of a lease while nothing else has changed: a script of its own, without the rest,
-- since it is the only call of an idle process.

local prefix, me, lease, args = ARGV[1], ARGV[3], tonumber(ARGV[5]), cjson.decode(ARGV[8])
local leases = prefix .. 'leases'
local moment = redis.call('TIME')
local server_time = tonumber(moment[1]) + tonumber(moment[2]) / 1000000

local generation = redis.call('HMGET', prefix .. 'generation', 'id', 'run')
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local ends_at = tonumber(redis.call('ZSCORE', leases, me))
if generation[1] ~= args.generation or generation[2] ~= run or not ends_at or
  ends_at <= server_time then return {'changed'} end

-- As in leases.lua: a full memory refuses ZADD, but not after a write that frees memory.
redis.call('ZREM', leases, me)
redis.call('ZADD', leases, string.format('%.17g', server_time + lease / 1000), me)

-- Return also the seconds for which nothing can become an orphan unannounced, as in renewal.lua.
if redis.call('ZCARD', prefix .. 'orphans') ~= 1 then return {'ok', '0'} end
local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
return {'ok', string.format('%.17g', math.max(0, tonumber(first[2]) - server_time))}
