-- Whether the command `orphans` would find or change anything: a script of its own, without the
-- rest, since every process calls it again and again where a renewal does not answer it.

local prefix, test_time, args = ARGV[1], ARGV[6], cjson.decode(ARGV[8])
local leases, orphans = prefix .. 'leases', prefix .. 'orphans'
local moment = redis.call('TIME')
local server_time = moment[1] .. '.' .. string.format('%06d', moment[2])

local function has_any(...) return redis.call(...)[1] ~= nil end

-- Orphans of other accounts are cleaned up when their predictions must have ended, by one process
-- a second.
local function is_due()
  local now = tonumber(test_time ~= '' and test_time or server_time)
  local reaped_at = redis.call('HGET', prefix .. 'generation', 'reaped_at')
  return math.abs(now - tonumber(reaped_at or '0')) >= 1
end

local found = has_any('ZRANGEBYSCORE', leases, '-inf', server_time, 'LIMIT', 0, 1)
  or has_any('ZRANGEBYLEX', orphans, '[' .. args.account .. ' ', '(' .. args.account .. '!',
    'LIMIT', 0, 1)
  or (redis.call('ZCARD', orphans) ~= 1 and is_due())
return {'ok', found and '1' or ''}
