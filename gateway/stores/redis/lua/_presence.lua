-- needs: epoch, outbox
--
-- Presence. `v:T` has what each node says of a player, node -> entry, and as `=` what that comes
-- to (seen). `w:T` has the nodes that watch the player. `on:NODE` and `wn:NODE` are the players
-- that a node says something of and watches, `pn` the nodes that have any. `online` has all
-- players who are not offline, in the order in which they came; `away` those whom no node has, by
-- the time at which they are offline; `gone` those who are, until their memberships have ended.
-- `pv` counts changes.
--
-- An entry is {name, named, status, stated, tabs}, a tab {session, state, connected}, and seen
-- {state, connections, since, name, status, named, stated}; a status that is not there is false.

local function open_player(true_id)
  local player = {id = true_id, entries = {}}
  local found = redis.call('HGETALL', prefix .. 'v:' .. true_id)
  for index = 1, #found, 2 do
    if found[index] == '=' then
      player.seen = cmsgpack.unpack(found[index + 1])
    else
      player.entries[found[index]] = cmsgpack.unpack(found[index + 1])
    end
  end
  return player
end

-- Takes what a node says of a player in the place of what it said before; nothing without tabs.
local function put_entry(player, node, entry)
  local key = prefix .. 'v:' .. player.id
  if entry and #entry[5] > 0 then
    entry[3] = entry[3] or false
    player.entries[node] = entry
    redis.call('HSET', key, node, cmsgpack.pack(entry))
    redis.call('SADD', prefix .. 'on:' .. node, player.id)
    redis.call('SADD', prefix .. 'pn', node)
  elseif player.entries[node] then
    player.entries[node] = nil
    redis.call('HDEL', key, node)
    redis.call('SREM', prefix .. 'on:' .. node, player.id)
  end
end

-- The node that has the connection of a session, if any.
local function holder_of(true_id, session)
  local record = redis.call('HGET', prefix .. 's:' .. true_id, session)
  return record and cjson.decode(record).node
end

-- Finds a session among the tabs of an entry.
local function find_tab(entry, session)
  for index, tab in ipairs(entry[5]) do
    if tab[1] == session then
      return index, tab
    end
  end
end

-- Makes the tabs of a node's entry what they are beside those of others. A session is one tab, of
-- the node that has its connection. A new tab is what was last said of it. Returns the sessions
-- that were new and are hidden.
local function place_tabs(player, node, entry)
  local adopted, kept = {}, {}
  for _, tab in ipairs(entry[5]) do
    local session, lost = tab[1], false
    local state = tab[2]
    for other, theirs in pairs(player.entries) do
      local index, known = find_tab(theirs, session)
      if known and other == node then
        if tab[2] == 'new' and state == 'new' then
          state = known[2]
        end
      elseif known then
        if tab[2] == 'new' then
          state = known[2]
        end
        local holder = holder_of(player.id, session)
        if holder == other or (holder ~= node and known[3] and not tab[3]) then
          lost = true
        else
          table.remove(theirs[5], index)
          put_entry(player, other, theirs)
        end
      end
    end
    if not lost then
      if tab[2] == 'new' and state == 'hidden' then
        adopted[#adopted + 1] = session
      end
      tab[2] = state == 'new' and 'active' or state
      kept[#kept + 1] = tab
    end
  end
  entry[5] = kept
  return adopted
end

-- Whether a node other than this one, and alive if it is known which are, has a connection of a
-- player: what it says of the player is under way.
local function is_elsewhere(true_id, node, live)
  for _, other in ipairs(redis.call('HKEYS', prefix .. 'r:' .. true_id)) do
    if other ~= node and (not live or string.find(live, ' ' .. other .. ' ', 1, true)) then
      return true
    end
  end
  return false
end

local function report(outbox, true_id, here, now)
  if outbox.seed == '' then
    return
  end
  if redis.call(here and 'SADD' or 'SREM', prefix .. 'here', true_id) == 1 then
    webhook(outbox, here and 'player.online' or 'player.offline', true_id, now, '{}')
  end
end

-- Tells the nodes that watch a player, but the one that knows already.
local function tell_watchers(player, version, seen, node, now)
  local watchers = prefix .. 'w:' .. player.id
  local text
  for _, other in ipairs(redis.call('SMEMBERS', watchers)) do
    if other ~= node then
      text = text or payload('w', player.id, version, seen, string.format('%.6f', now))
      if tell(other, text) == 0 then
        redis.call('SREM', watchers, other)
        redis.call('SREM', prefix .. 'wn:' .. other, player.id)
      end
    end
  end
end

local function set_offline(outbox, player, node, now)
  if player.seen and player.seen[1] ~= 'away' then
    total('online', -1)
  end
  redis.call('DEL', prefix .. 'v:' .. player.id)
  redis.call('ZREM', prefix .. 'online', player.id)
  redis.call('ZREM', prefix .. 'away', player.id)
  redis.call('SADD', prefix .. 'gone', player.id)
  report(outbox, player.id, false, now)
  if player.seen then
    player.seen = nil
    tell_watchers(player, redis.call('INCR', prefix .. 'pv'), '', node, now)
  end
end

-- Puts together what all nodes say of a player.
local function merge(player, now)
  local before = player.seen or {}
  local seen = {
    'away', 0, now, before[4] or '', before[5] or false, before[6] or 0, before[7] or 0
  }
  for _, entry in pairs(player.entries) do
    seen[2] = seen[2] + #entry[5]
    for _, tab in ipairs(entry[5]) do
      if tab[2] == 'active' then
        seen[1] = 'active'
      elseif seen[1] == 'away' then
        seen[1] = 'hidden'
      end
    end
    if entry[2] >= seen[6] then
      seen[4], seen[6] = entry[1], entry[2]
    end
    if entry[3] and entry[4] >= seen[7] then
      seen[5], seen[7] = entry[3], entry[4]
    end
  end
  if seen[1] == before[1] then
    seen[3] = before[3]
  end
  return seen
end

-- What nodes say of a player has changed, at a time: make of it what watchers see. Who is nowhere
-- is away for the grace, or offline if they have `left`.
local function update_player(outbox, player, node, now, grace, left)
  local before, seen = player.seen, merge(player, now)
  if seen[1] == 'away' then
    if not before then
      -- They came and went before anybody heard of it; they may be in a room by now.
      if left then
        redis.call('SADD', prefix .. 'gone', player.id)
      else
        redis.call('ZADD', prefix .. 'away', 'NX', now + grace, player.id)
      end
      return
    end
    if grace <= 0 or (left and before[1] ~= 'away' and not is_elsewhere(player.id, node)) then
      set_offline(outbox, player, node, now)
      return
    end
    redis.call('ZADD', prefix .. 'away', 'NX', now + grace, player.id)
  else
    redis.call('ZREM', prefix .. 'away', player.id)
    redis.call('SREM', prefix .. 'gone', player.id)
    report(outbox, player.id, true, now)
  end
  if not before then
    redis.call('ZADD', prefix .. 'online', total('arrivals', 1), player.id)
  end
  local was_here, is_here = before and before[1] ~= 'away', seen[1] ~= 'away'
  if was_here ~= is_here then
    total('online', is_here and 1 or -1)
  end
  local packed = cmsgpack.pack(seen)
  player.seen = seen
  redis.call('HSET', prefix .. 'v:' .. player.id, '=', packed)
  if not before or seen[1] ~= before[1] or seen[2] ~= before[2] or seen[4] ~= before[4]
    or seen[5] ~= before[5] then
    tell_watchers(player, redis.call('INCR', prefix .. 'pv'), packed, node, now)
  end
end

-- The version of all that there is now.
local function version_now()
  return tonumber(redis.call('GET', prefix .. 'pv') or 0)
end

-- How a player is, packed; '' for offline.
local function look_at(true_id)
  return redis.call('HGET', prefix .. 'v:' .. true_id, '=') or ''
end
