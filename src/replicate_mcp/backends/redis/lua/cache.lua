-- Cached responses of Replicate's, each in a key that expires, and their sizes.
--
-- `memos` is a hash with the bytes of each ('m:' and its name) and of all ('all'); `memos_written`
-- and `memos_expire` are sorted sets of their names, by these times.

local sizes, written, expire = prefix .. 'memos', prefix .. 'memos_written', prefix .. 'memos_expire'

local function uncount(name)
  local bytes = redis.call('HGET', sizes, 'm:' .. name)
  redis.call('HDEL', sizes, 'm:' .. name)
  redis.call('ZREM', written, name)
  redis.call('ZREM', expire, name)
  if bytes then redis.call('HINCRBY', sizes, 'all', '-' .. bytes) end
end

local function remove(name)
  redis.call('DEL', memo_key(name))
  uncount(name)
end

local function remove_expired()
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', expire, '-inf', exact(now))) do remove(name) end
end

-- Remove the oldest entries until `bytes` fit within `most`.
local function make_room(bytes, most)
  while tonumber(redis.call('HGET', sizes, 'all') or 0) + bytes > most do
    local oldest = redis.call('ZRANGE', written, 0, 0)[1]
    if not oldest then
      redis.call('HDEL', sizes, 'all')  -- Only the set of names was lost.
      return
    end
    remove(oldest)
  end
end

function cache.put(name, value, seconds, bytes, most)
  local until_ = exact(now + seconds)
  -- This write must be the first: a full memory rejects it, but not after a write that frees
  -- memory.
  redis.call('SET', memo_key(name), until_ .. ' ' .. value, 'PX', math.ceil(seconds * 1000))
  uncount(name)
  remove_expired()
  make_room(bytes, most)
  redis.call('HSET', sizes, 'm:' .. name, whole(bytes))
  redis.call('HINCRBY', sizes, 'all', whole(bytes))
  redis.call('ZADD', written, exact(server_time), name)
  redis.call('ZADD', expire, until_, name)
end

function cache.get(name)
  local until_, value = string.match(redis.call('GET', memo_key(name)) or '', '^(%S+) (.*)$')
  return until_ and tonumber(until_) > now and value or nil
end
