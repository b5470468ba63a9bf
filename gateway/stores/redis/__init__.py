"""The redis store: mailboxes, sessions and rooms that several gateways share.

`link.py` is one connection, `client.py` what the rest of the store asks, `keys.py` where
things are.
"""
