"""An extension: a referee of noughts and crosses, who decides what the players may do.

In the YAML file: `extensions: [referee]` and `extensions_path: config/extensions`. Players connect
to `/` as ever and, over the same connection, to `/referee`. There, `sit` takes a place in a match
and `move` a cell of it; both answer `{ok, ...}`. What happened goes to both players as messages
of the match's room: who is away gets it when they are back, and plays on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import socketio

from gateway.extension import Gateway, Request, RequestRefused, Response, TrueId

NAMESPACE = "/referee"
MARKS = ("X", "O")
LINES = (
    *((row, row + 1, row + 2) for row in (0, 3, 6)),
    *((column, column + 3, column + 6) for column in (0, 1, 2)),
    *((0, 4, 8), (2, 4, 6)),
)
#: Matches at once. One that nobody has touched for so many seconds makes room.
MAX_MATCHES = 1000
IDLE_SECONDS = 3600.0


@dataclass
class Match:
    """A board and its two places, the first of which moves first."""

    players: list[TrueId] = field(default_factory=list)
    board: list[str] = field(default_factory=lambda: [""] * 9)
    moves: int = 0
    touched: float = 0.0

    @property
    def turn(self) -> str | None:
        """Whose mark is next; None when it is over."""
        over = self.winner is not None or self.moves == len(self.board)
        return None if over else MARKS[self.moves % 2]

    @property
    def winner(self) -> str | None:
        """Whose mark has a line."""
        for a, b, c in LINES:
            if self.board[a] and self.board[a] == self.board[b] == self.board[c]:
                return self.board[a]
        return None

    def state(self) -> dict[str, object]:
        """Return what players are told."""
        return {"board": self.board, "turn": self.turn, "winner": self.winner}


class Referee(socketio.AsyncNamespace):
    """Matches by name, players by `true_id`: a new connection changes nothing."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(NAMESPACE)
        self.gateway = gateway
        self.matches: dict[str, Match] = {}

    def _player(self, sid: str) -> TrueId:
        player = self.gateway.player_of(sid, NAMESPACE)
        if player is None:
            raise RequestRefused("forbidden", "log in first")
        return player

    def _match(self, data: object) -> tuple[str, Match | None]:
        name = data.get("match") if isinstance(data, dict) else None
        if not isinstance(name, str) or not (1 <= len(name) <= 64 and name.isprintable()):
            text = "match must be a name of 1 to 64 printable characters"
            raise RequestRefused("bad_request", text, "match")
        return name, self.matches.get(name)

    async def on_sit(self, sid: str, data: object) -> dict[str, object]:
        """Take a place in a match; who has one already keeps it."""
        player = self._player(sid)
        name, match = self._match(data)
        if match is None:
            self._make_room()
            match = self.matches[name] = Match(touched=time.monotonic())
        if player not in match.players:
            if len(match.players) == len(MARKS):
                raise RequestRefused("forbidden", "both places are taken", "match")
            match.players.append(player)
        await self.gateway.add_member(f"match:{name}", player)
        return {"ok": True, "you": MARKS[match.players.index(player)], **match.state()}

    async def on_move(self, sid: str, data: object) -> dict[str, object]:
        """Put a mark into a cell."""
        player = self._player(sid)
        name, match = self._match(data)
        if match is None or player not in match.players:
            raise RequestRefused("forbidden", "you have no place in this match", "match")
        cell = data.get("cell") if isinstance(data, dict) else None
        if type(cell) is not int or not 0 <= cell < len(match.board):
            raise RequestRefused("bad_request", "cell must be a number from 0 to 8", "cell")
        if len(match.players) < len(MARKS):
            raise RequestRefused("forbidden", "the other place is empty yet")
        mark = MARKS[match.players.index(player)]
        if match.turn != mark:
            text = "the match is over" if match.turn is None else "it is not your turn"
            raise RequestRefused("forbidden", text)
        if match.board[cell]:
            raise RequestRefused("forbidden", "the cell is taken", "cell")
        # No `await` between the check and this: nobody moves in between. From here on the move
        # stands, whether it could be told or not: `sit` says how the board is.
        match.board[cell] = mark
        match.moves += 1
        match.touched = time.monotonic()
        number, state = match.moves, match.state()
        if match.turn is None:
            del self.matches[name]
        move = {"cell": cell, "mark": mark, "number": number, **state}
        await self.gateway.publish(f"match:{name}", move, type="move")
        if match.turn is None:
            for each in match.players:
                await self.gateway.remove_member(f"match:{name}", each)
        return {"ok": True, **state}

    def _make_room(self) -> None:
        if len(self.matches) < MAX_MATCHES:
            return
        name, oldest = min(self.matches.items(), key=lambda item: item[1].touched)
        if time.monotonic() - oldest.touched < IDLE_SECONDS:
            raise RequestRefused("rate_limited", "all tables are taken", "match", 60.0)
        del self.matches[name]

    async def count(self, request: Request) -> Response:
        """Answer `GET /ext/referee/matches`."""
        return Response(b'{"matches": %d}' % len(self.matches))


def setup(gateway: Gateway) -> None:
    """Called by the gateway at its start."""
    referee = Referee(gateway)
    gateway.add_namespace(referee)
    gateway.add_route("GET", "/ext/referee/matches", referee.count)
