"""What the Redis backend does in one step: Lua, each script with `COMMON` before it.

An entry is a hash; an empty `expires_at` means for ever. Beside the entries stand sorted sets: the keys of each
namespace and the namespaces, by their bytes, and `over`, by the time from which there is something to purge. That time
and all others are the callers'. Redis' own expiry goes by its own clock, and comes a minute later than theirs.

A script is refused as a whole where Redis is full (its first line says otherwise for those that free).

The names of the keys are made in the scripts: a Redis Cluster will not have them. Reads answer in JSON, which Python
takes in many times faster than Redis' own protocol.
"""

PREFIX = "quarterdeck:memory:"
NAMESPACES = PREFIX + "namespaces"
SCHEMA_KEY = PREFIX + "schema"
CLOCK = PREFIX + "clock"
HEAD = ("size", "version", "created_at", "updated_at", "expires_at", "deleted")

COMMON = f"""
local PREFIX, NAMESPACES, OVER = '{PREFIX}', '{NAMESPACES}', '{PREFIX}over'
local HEAD = {{{", ".join(f"'{name}'" for name in HEAD)}}}
local now = tonumber(ARGV[1])

local function member_of(namespace, key) return namespace .. '\\n' .. key end
local function entry_of(member) return PREFIX .. 'entry:' .. member end
local function keys_of(namespace) return PREFIX .. 'keys:' .. namespace end

local function forget(namespace, key)
  local member = member_of(namespace, key)
  redis.call('DEL', entry_of(member))
  redis.call('ZREM', OVER, member)
  redis.call('ZREM', keys_of(namespace), key)
  if redis.call('EXISTS', keys_of(namespace)) == 0 then redis.call('ZREM', NAMESPACES, namespace) end
end

local function is_live(head)
  local version, expires_at, deleted = head[2], head[5], head[6]
  return version and deleted == '0' and (expires_at == '' or now < tonumber(expires_at))
end

-- Visit the heads of the next live entries of a namespace in a range, until `visit` is true; where to go on, or false.
local LOOK = 500
local function walk(namespace, low, high, visit)
  local keys = redis.call('ZRANGEBYLEX', keys_of(namespace), low, high, 'LIMIT', 0, LOOK)
  for _, key in ipairs(keys) do
    local head = redis.call('HMGET', entry_of(member_of(namespace, key)), unpack(HEAD))
    if not head[2] then
      forget(namespace, key)  -- Redis has expired it
    elseif is_live(head) and visit(key, head) then
      return '(' .. key
    end
  end
  return #keys == LOOK and '(' .. keys[LOOK] or false
end
"""

_ENTRY = """
local namespace, key = ARGV[2], ARGV[3]
local member = member_of(namespace, key)
local entry = entry_of(member)

local FIELDS = {'version', 'created_at', 'ttl', 'expires_at', 'deleted', 'grace', 'previous_ttl', 'previous_until'}
local old = {}
for i, value in ipairs(redis.call('HMGET', entry, unpack(FIELDS))) do old[FIELDS[i]] = tonumber(value or '') end
local live = old.version and old.deleted == 0 and (not old.expires_at or now < old.expires_at)
local ended_until = old.version and math.min(old.expires_at or now, now) + old.grace  -- if the value ends now

local function text_of(number) return number and string.format('%.0f', number) or '' end

local function end_of(ttl) return ttl > 0 and now + ttl or nil end

-- Before an overwrite: the value stays restorable if its grace is not over. Returns until when.
local function keep_previous()
  local previous_until = ended_until and ended_until > now and ended_until or nil
  if previous_until then
    redis.call('HSET', entry, 'previous', redis.call('HGET', entry, 'text'),
      'previous_ttl', text_of(old.ttl), 'previous_until', text_of(previous_until))
  else
    redis.call('HDEL', entry, 'previous', 'previous_ttl', 'previous_until')
  end
  return previous_until
end

local function list()
  redis.call('ZADD', keys_of(namespace), 0, key)
  redis.call('ZADD', NAMESPACES, 0, namespace)
end

-- Note when Redis may expire the entry, and when there is something to purge.
local SLACK = 60000
local function schedule(expires_at, grace, previous_until)
  local over = expires_at and expires_at + grace
  if over then
    redis.call('PEXPIRE', entry, text_of(math.max(over - now, 0) + SLACK))
  else
    redis.call('PERSIST', entry)
  end
  local first = math.min(over or math.huge, previous_until or math.huge)
  if first < math.huge then
    redis.call('ZADD', OVER, text_of(first), member)
  else
    redis.call('ZREM', OVER, member)
  end
end
"""

PUT = f"""#!lua
{COMMON}{_ENTRY}
local expected, ttl, grace, size, text = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[8]
local current = live and old.version or 0
if expected and expected ~= current then return {{-1, current}} end
local version, created_at = (old.version or 0) + 1, live and old.created_at or now
local previous_until = keep_previous()
redis.call('HSET', entry, 'text', text, 'size', size, 'version', text_of(version), 'created_at', text_of(created_at),
  'updated_at', text_of(now), 'ttl', text_of(ttl), 'expires_at', text_of(end_of(ttl)), 'deleted', '0',
  'grace', text_of(grace))
list()
schedule(end_of(ttl), grace, previous_until)
return {{version, created_at}}
"""

LOAD = f"""#!lua
{COMMON}{_ENTRY}
local version, size, created_at, updated_at = tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local ttl, expires_at, grace, text = ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]
if live and tonumber(redis.call('HGET', entry, 'updated_at')) >= tonumber(updated_at) then return 0 end
if old.version then version = math.max(old.version + 1, version) end
local previous_until = keep_previous()
redis.call('HSET', entry, 'text', text, 'size', size, 'version', text_of(version), 'created_at', created_at,
  'updated_at', updated_at, 'ttl', ttl, 'expires_at', text_of(expires_at), 'deleted', '0', 'grace', text_of(grace))
list()
schedule(expires_at, grace, previous_until)
return 1
"""

NOTE_TIME = """#!lua
local now, trust = tonumber(ARGV[1]), tonumber(ARGV[2])
local noted = tonumber(redis.call('GET', KEYS[1]) or '0')
if noted < now or noted > now + trust then redis.call('SET', KEYS[1], ARGV[1]) end
return noted
"""

TOUCH = f"""#!lua
{COMMON}{_ENTRY}
if not live then return false end
local ttl = tonumber(ARGV[4]) or old.ttl
redis.call('HSET', entry, 'ttl', text_of(ttl), 'expires_at', text_of(end_of(ttl)))
schedule(end_of(ttl), old.grace, old.previous_until)
return redis.call('HMGET', entry, unpack(HEAD))
"""

DELETE = f"""#!lua flags=allow-oom
{COMMON}{_ENTRY}
local expected, current = tonumber(ARGV[4]), live and old.version or 0
if expected and expected ~= current then return {{-1, current}} end
if not live then return {{0, 0}} end
redis.call('HSET', entry, 'expires_at', text_of(now), 'deleted', '1')
schedule(now, old.grace, old.previous_until)
return {{1, current}}
"""

RESTORE = f"""#!lua
{COMMON}{_ENTRY}
local ttl = tonumber(ARGV[4])
local previous_until = old.previous_until
if live and previous_until and previous_until > now then
  ttl, previous_until = ttl or old.previous_ttl, now + old.grace
  local text, previous = unpack(redis.call('HMGET', entry, 'text', 'previous'))
  redis.call('HSET', entry, 'text', previous, 'size', #previous, 'previous', text, 'previous_ttl', text_of(old.ttl),
    'previous_until', text_of(previous_until))
elseif old.version and not live and old.expires_at + old.grace > now then
  ttl = ttl or old.ttl
else
  return false
end
redis.call('HSET', entry, 'version', text_of(old.version + 1), 'updated_at', text_of(now), 'ttl', text_of(ttl),
  'expires_at', text_of(end_of(ttl)), 'deleted', '0')
schedule(end_of(ttl), old.grace, previous_until)
return redis.call('HMGET', entry, 'text', unpack(HEAD))
"""

_EACH = """#!lua flags=no-writes
{COMMON}
local namespace = ARGV[2]
local found = {{}}
for i = 3, #ARGV do
  local entry = entry_of(member_of(namespace, ARGV[i]))
  local head = redis.call('HMGET', entry, unpack(HEAD))
  if is_live(head) then table.insert(found, {{ARGV[i], {text}, unpack(head)}}) end
end
return cjson.encode(found)
"""
GET = _EACH.format(COMMON=COMMON, text="redis.call('HGET', entry, 'text')")
HEADS = _EACH.format(COMMON=COMMON, text="''")

PAGE = f"""#!lua flags=allow-oom
{COMMON}
local namespace, low, high, limit, bytes = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local found, size = {{}}, 0
local following = walk(namespace, low, high, function(key, head)
  local text = bytes > 0 and redis.call('HGET', entry_of(member_of(namespace, key)), 'text') or ''
  size = size + #text
  table.insert(found, {{key, text, unpack(head)}})
  return #found == limit or size > bytes
end)
return cjson.encode({{following, found}})
"""

COUNT = f"""#!lua flags=allow-oom
{COMMON}
local namespace, low = ARGV[2], ARGV[3]
local count, size, next_expiry = 0, 0, math.huge
local following = walk(namespace, low, '+', function(_, head)
  count, size = count + 1, size + tonumber(head[1])
  next_expiry = math.min(next_expiry, tonumber(head[5]) or math.huge)
end)
return {{following, count, size, next_expiry < math.huge and next_expiry or false}}
"""

PURGE = f"""#!lua flags=allow-oom
{COMMON}
local limit = tonumber(ARGV[2])
for _, member in ipairs(redis.call('ZRANGEBYSCORE', OVER, '-inf', ARGV[1], 'LIMIT', 0, limit)) do
  local entry = entry_of(member)
  local version, expires_at, grace = unpack(redis.call('HMGET', entry, 'version', 'expires_at', 'grace'))
  local over = version and expires_at ~= '' and tonumber(expires_at) + tonumber(grace)
  if not version or over and over <= now then
    forget(string.match(member, '^(.-)\\n(.*)$'))
  else
    redis.call('HDEL', entry, 'previous', 'previous_ttl', 'previous_until')
    if over then redis.call('ZADD', OVER, string.format('%.0f', over), member) else redis.call('ZREM', OVER, member) end
  end
end
"""
