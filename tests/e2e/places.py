"""Where the game's page says that players are, whatever drives its browser."""

from __future__ import annotations

import json


class Places:
    """A page of the game: `hook` returns what it says of itself; empty: nothing yet."""

    def hook(self, name: str) -> str:
        raise NotImplementedError

    @property
    def place(self) -> tuple[int, int]:
        """Where the player is."""
        return int(self.hook("x")), int(self.hook("y"))

    def place_of(self, true_id: str) -> tuple[int, int] | None:
        """Where this page shows another player; None: not at all."""
        place = json.loads(self.hook("others") or "{}").get(true_id)
        return None if place is None else (place[0], place[1])
