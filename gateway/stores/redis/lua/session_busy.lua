-- needs: sessions
--
-- Sessions whose connection a node has, as T\0id: the node, how many at most.
return busy_at(ARGV[1], ARGV[2])
