"""Bounds of a store that are hit although nobody is refused, or without a word of which it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

#: Is told which bound was hit: its key in the YAML file as metrics have it, or `store.NAME` of one
#: that is built in.
OnLimit: TypeAlias = Callable[[str], None]


def ignore_limit(limit: str) -> None:
    """Nobody counts."""
