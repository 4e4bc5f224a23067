-- The renewal of a lease while nothing else has to be done: a script of its own, without the rest,
-- since it is the only call of an idle process.

local prefix, me, lease, test_time = ARGV[1], ARGV[3], tonumber(ARGV[5]), ARGV[6]
local args = cjson.decode(ARGV[8])
local leases = prefix .. 'leases'
local moment = redis.call('TIME')
local server_time = tonumber(moment[1]) + tonumber(moment[2]) / 1000000

local generation = redis.call('HMGET', prefix .. 'generation', 'id', 'run')
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local ends_at = tonumber(redis.call('ZSCORE', leases, me))
if generation[1] ~= args.generation or generation[2] ~= run or not ends_at or
  ends_at <= server_time then return {'changed'} end

-- As in leases.lua: a full memory refuses ZADD, but not after a write that frees memory.
local renewed = string.format('%.17g', server_time + lease / 1000)
if type(redis.pcall('ZADD', leases, renewed, me)) == 'table' then
  redis.call('ZREM', leases, me)
  redis.call('ZADD', leases, renewed, me)
end

-- Return also the seconds for which nothing can become an orphan unannounced, as in renewal.lua.
local quiet_for = '0'
if redis.call('ZCARD', prefix .. 'orphans') == 1 then
  local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  quiet_for = string.format('%.17g', math.max(0, tonumber(first[2]) - server_time))
end
if not args.accounts then return {'ok', quiet_for} end
local now = test_time == '' and server_time or tonumber(test_time)
return {'ok', quiet_for, shared_state(prefix, args.accounts, args.mirrored, now)}
