"""Lua scripts: each is a file in lua/ and the parts it needs, one call on the server."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

_FOLDER: Final = files("gateway.stores.redis") / "lua"
_COMMON: Final = "common"
#: The first line of a file that needs others: lua/_NAME.lua, put before it.
_NEEDS: Final = re.compile(r"-- needs: (\w+(?:, \w+)*)\n")


@dataclass(frozen=True, slots=True)
class Script:
    """A script and how the server calls it: by the SHA-1 of its source, in hex."""

    name: str
    source: bytes
    sha: bytes


def script(name: str, source: str) -> Script:
    """Return the script with this source, lua/_common.lua and what it needs put before it."""
    parts: dict[str, str] = {}
    _collect(_COMMON, _read(f"_{_COMMON}"), parts)
    _collect("", source, parts)
    whole = "\n".join(parts.values()).encode()
    digest = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    return Script(name, whole, digest.encode())


def _collect(name: str, source: str, parts: dict[str, str]) -> None:
    match = _NEEDS.match(source)
    for needed in match[1].split(", ") if match else ():
        if needed not in parts:
            _collect(needed, _read(f"_{needed}"), parts)
    parts[name] = source


@functools.cache
def load(name: str) -> Script:
    """Return the script in lua/NAME.lua."""
    return script(name, _read(name))


@functools.cache
def load_all() -> tuple[Script, ...]:
    """Return all scripts there are: a server is told of them before their first use."""
    names = sorted(entry.name for entry in _FOLDER.iterdir() if entry.name.endswith(".lua"))
    return tuple(load(name.removesuffix(".lua")) for name in names if not name.startswith("_"))


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
