"""Lua scripts: each is lua/_common.lua and a file of its own, one call on the server."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

_FOLDER: Final = files("gateway.stores.redis") / "lua"
_COMMON: Final = "_common"


@dataclass(frozen=True, slots=True)
class Script:
    """A script and how the server calls it: by the SHA-1 of its source, in hex."""

    name: str
    source: bytes
    sha: bytes


def script(name: str, source: str) -> Script:
    """Return the script with this source, lua/_common.lua put before it."""
    whole = f"{_read(_COMMON)}\n{source}".encode()
    digest = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    return Script(name, whole, digest.encode())


@functools.cache
def load(name: str) -> Script:
    """Return the script in lua/NAME.lua."""
    return script(name, _read(name))


@functools.cache
def load_all() -> tuple[Script, ...]:
    """Return all scripts there are: a server is told of them before their first use."""
    names = sorted(entry.name for entry in _FOLDER.iterdir() if entry.name.endswith(".lua"))
    return tuple(load(name.removesuffix(".lua")) for name in names if name != f"{_COMMON}.lua")


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
