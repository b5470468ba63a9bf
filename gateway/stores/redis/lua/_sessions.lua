-- needs: epoch, players
--
-- Sessions. `s:T` has a player's: id -> record (JSON). A record's `node` is who has the session's
-- connection, '' if it has none; `version` is another, higher number after each update. `idle` has
-- the sessions without connection, the one without for longest first, as T\0id; `busy` those with
-- one, as node\0T\0id, all with one score, so that they are in the order of these bytes. `r:T` has
-- how many of the player's a node has.

-- A number that rises with each use: places in `idle`, and versions.
local function next_number()
  return redis.call('INCR', prefix .. 'sn')
end

local function read_session(true_id, id)
  local record = redis.call('HGET', prefix .. 's:' .. true_id, id)
  return record and cjson.decode(record)
end

local function write_session(true_id, id, session)
  redis.call('HSET', prefix .. 's:' .. true_id, id, cjson.encode(session))
end

-- Whether a node is in a list, which has a space before and after each.
local function is_in(nodes, node)
  return string.find(nodes, ' ' .. node .. ' ', 1, true) ~= nil
end

local function is_idle(session, dead)
  return session.node == '' or is_in(dead, session.node)
end

-- Takes a session out of `idle` or `busy`.
local function take_out(true_id, id, session)
  if session.node == '' then
    redis.call('ZREM', prefix .. 'idle', true_id .. '\0' .. id)
    return
  end
  redis.call('ZREM', prefix .. 'busy', session.node .. '\0' .. true_id .. '\0' .. id)
  local routes = prefix .. 'r:' .. true_id
  -- A node that did not listen has been dropped from the routes: it has none to take.
  if redis.call('HINCRBY', routes, session.node, -1) <= 0 then
    redis.call('HDEL', routes, session.node)
  end
end

-- Puts in a session that is new or was taken out: it has a connection at a node, or none ('').
local function put_in(true_id, id, session, node)
  session.node = node
  if node == '' then
    redis.call('ZADD', prefix .. 'idle', next_number(), true_id .. '\0' .. id)
  else
    redis.call('ZADD', prefix .. 'busy', 0, node .. '\0' .. true_id .. '\0' .. id)
    redis.call('HINCRBY', prefix .. 'r:' .. true_id, node, 1)
  end
end

local function move_session(true_id, id, session, node)
  if session.node ~= node then
    take_out(true_id, id, session)
    put_in(true_id, id, session, node)
  end
end

local function drop_session(true_id, id, session)
  take_out(true_id, id, session)
  redis.call('HDEL', prefix .. 's:' .. true_id, id)
  total('sessions', -1)
  -- Last: what the others have all confirmed may be more without it.
  confirmed_more(true_id)
  may_be_forgotten(true_id)
end

-- Returns player and session of T\0id: only the player's id may have a zero byte.
local function split_member(member)
  return string.match(member, '^(.*)%z(%Z*)$')
end

-- Returns the nodes that have sessions in `busy`.
local function busy_nodes()
  local nodes, from = {}, '-'
  while true do
    local member = redis.call('ZRANGE', prefix .. 'busy', from, '+', 'BYLEX', 'LIMIT', 0, 1)[1]
    if not member then
      return nodes
    end
    local node = string.match(member, '^%Z*')
    nodes[#nodes + 1] = node
    from = '[' .. node .. '\1'
  end
end

-- Returns members of `busy` without their node, T\0id: of which node, how many at most.
local function busy_at(node, most)
  local found = redis.call('ZRANGE', prefix .. 'busy', '[' .. node .. '\0', '(' .. node .. '\1',
    'BYLEX', 'LIMIT', 0, most)
  for index, member in ipairs(found) do
    found[index] = string.sub(member, #node + 2)
  end
  return found
end

-- Returns player and session of the one without connection for longest, nil if all have one.
local function longest_idle(dead)
  local member = redis.call('ZRANGE', prefix .. 'idle', 0, 0)[1]
  for _, node in ipairs(member and {} or busy_nodes()) do
    if not member and is_in(dead, node) then
      member = busy_at(node, 1)[1]
    end
  end
  if member then
    return split_member(member)
  end
end

local function is_banned(true_id, now)
  local ban = redis.call('HGET', prefix .. 'b', true_id)
  local ends = ban and cjson.decode(ban)['until']
  return ban and (ends == cjson.null or ends > tonumber(now))
end

-- `x` has when sessions (`s:ID`) and players (`p:T`) were revoked. Beyond a bound the oldest go, and
-- `x_until` says up to when that was. Returns 1 if one went, else 0.
local function remember_revocation(member, now, most)
  redis.call('ZADD', prefix .. 'x', now, member)
  local excess = redis.call('ZCARD', prefix .. 'x') - most
  if excess > 0 then
    local gone = redis.call('ZPOPMIN', prefix .. 'x', excess)
    local newest = gone[#gone]
    local before = redis.call('GET', prefix .. 'x_until')
    if not before or tonumber(before) < tonumber(newest) then
      redis.call('SET', prefix .. 'x_until', newest)
    end
    return 1
  end
  return 0
end
