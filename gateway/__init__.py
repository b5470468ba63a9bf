"""The game message gateway: a player is a `true_id`, not a socket.

The way of a message through the code, one stage a module:

1. `transport/` speaks HTTP, Engine.IO (`engineio.py` is its state machine) and Socket.IO, by TCP,
   with TLS (`tls.py`), and by Unix domain sockets.
   With several nodes on one store, what belongs to another node's session is handed on there
   (`transport/forwarding.py`), signed by `internal_requests.py`.
2. `admission.py` turns a CONNECT (`connect_request.py`) into a player's connection: limits,
   token or pid (`tokens.py`), credentials (`auth/`), session (`session.py`), takeover or fork;
   `connecting.py` keeps the session and puts the connection in its place.
   `revocation.py` ends sessions, `accounts.py` those of accounts that were removed.
3. `connection.py` is one connection of a player: it parses events (`messages.py`,
   `hot_events.py`), keeps their rate (`limits.py`) and writes what its cursor (`replay.py`) says
   is next.
4. `delivery.py` accepts a message: append, notify, acknowledge; `conflation.py` keeps the latest
   volatile state for who cannot have it now. `rooms.py` says who is in a room (`membership.py`),
   `joining.py` asks who may come in, `absence.py` ends it for who stays away.
   `presence.py` knows who is here, `presence_view.py` who is on any node (`presence_sharing.py`
   and `presence_writing.py` share it by `presence_store.py`), `watching.py` who is told of it and
   when, `presence_service.py` tells them. `registry.py` maps `true_id <-> connections`.
5. `mailbox.py` defines the mailbox and the store protocol; `stores/` keeps it.

Several gateways may share a store: each is a node. `nodes.py` is how services reach players who
are connected to another one, `inbound.py` what the others ask of this one. `cut_off.py` says what
becomes of the players of a node that has lost the store.

Beside it stands the game's backend. It calls in by HTTP: `transport/api.py` serves the table
`api_calls.py`, whose calls are methods of `backend.py`; `api_keys.py` says who may. It is told by
webhooks: a store writes them (`outbox.py`) with what they report, `attendance.py` adds who comes
and goes, and `webhooks.py` sends them. It is asked who players are (`auth/webhook.py`) and where
they may go (`room_webhook.py`) by `inquiries.py`. `openapi.py` and `asyncapi.py` describe both
sides.

The operator has a page: `transport/admin.py` serves it behind `transport/admin_door.py`, whose
log-ins `admin_sessions.py` keeps; `admin.py` is what it shows and does, `history.py` the last hour
in numbers.

Extensions are modules of the game's own (`extension_modules.py` finds them) and see
`extension.py`; `transport/extension_host.py` stands behind it, `transport/extensions.py` drives
their namespaces.

`server.py` builds all of it from `config.py` in one place (`building.py` and `building_auth.py` say
what each part is told), `lifecycle.py` runs it until a signal comes, `cli.py` starts it.
`store_news.py` hands on what a store says by itself. At a reload `reloading.py` says what of a new
configuration counts at once and `taking_over.py` hands it on; `draining.py` sends everybody away
in the end, `systemd.py` and `watchdog.py` speak with systemd.

`client/` is for the other end: bots and game servers. It imports nothing from beside it.
"""
