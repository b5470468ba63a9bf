-- A Redis without memory refuses a script at its first write, if that may take some, and lets it go
-- on if not. This one takes none: what nodes and sessions need to go on, and what makes room, is
-- done all the same.
redis.call('DEL', prefix .. 'none')
