"""Lua scripts: each is a file in lua/ and the parts it needs, one call on the server."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

#: What scripts get in the place of a limit that there is not: more than there can be.
UNLIMITED: Final = 2**53
_FOLDER: Final = files("gateway.stores.redis") / "lua"
_COMMON: Final = "common"
#: A line that names parts which what follows needs, each a file lua/_NAME.lua. Functions cost at
#: every call, so what is needed seldom may come after the point where most calls return.
_NEEDS: Final = re.compile(r"^-- needs: (\w+(?:, \w+)*)$", re.MULTILINE)
#: A line that says that no replica need have what the script writes: it is of the moment.
_FLEETING: Final = re.compile(r"^-- fleeting$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script and how the server calls it: by the SHA-1 of its source, in hex.

    What one that is `fleeting` writes counts though no replica has it.
    """

    name: str
    source: bytes
    sha: bytes
    fleeting: bool = False


def script(name: str, source: str) -> Script:
    """Return the script with this source and all that it needs; lua/_common.lua comes first."""
    included = {_COMMON}
    whole = f"{_read(f'_{_COMMON}')}\n{_expand(source, included)}".encode()
    digest = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    return Script(name, whole, digest.encode(), _FLEETING.search(source) is not None)


def _expand(source: str, included: set[str]) -> str:
    """Put each part that is needed in the place of the line that says so, unless it is there."""

    def parts(match: re.Match[str]) -> str:
        texts = []
        for name in match[1].split(", "):
            if name not in included:
                included.add(name)
                texts.append(_expand(_read(f"_{name}"), included))
        return "\n".join(texts)

    return _NEEDS.sub(parts, source)


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
