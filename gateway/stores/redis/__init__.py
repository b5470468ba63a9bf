"""The redis store: mailboxes, sessions and rooms that several gateways share.

`link.py` is one connection, `handshake.py` its first words, `subscriber.py` one that hears
channels. `master.py` keeps both to a server; which servers there are is up to `single.py`, with or
without Sentinels, and `cluster.py`. `hearing.py` says whose channels are heard. `client.py` is
what the rest of the store asks, by `scripts.py`; `keys.py` is where things are.

`store.py` puts the rest together: mailboxes, sessions, rooms, presence, webhooks. `nodes.py` is
what the gateways on one Redis are to each other. `resuming.py` and `acknowledged.py` see to what
was missed, and to what Redis may have lost.
"""
