"""The URL of a store, `store.url` in the YAML file: its forms, read and checked without IO."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote

_SQLITE: Final = re.compile(r"sqlite:///([^?#]+)(?:\?([^#]*))?")
_FORMS: Final = (
    'must be "memory://", "sqlite:///FILE" (FILE is relative to the state directory) or '
    '"sqlite:////ABSOLUTE/FILE", the latter two with ?synchronous=FULL or ?synchronous=NORMAL '
    "at the end if wanted"
)
_LATER: Final = ("redis", "rediss", "valkey", "valkeys")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A store's kind and, for sqlite, its file and how safely it is written.

    `path` may be relative. FULL survives a power cut; NORMAL survives the end of the process,
    however sudden, but may lose the last moments before a power cut.
    """

    kind: Literal["memory", "sqlite"]
    path: str = ""
    synchronous: Literal["FULL", "NORMAL"] = "FULL"


def parse_store_url(url: str) -> StoreUrl:
    """Return what the URL says. Raises ValueError with a text about what to write instead."""
    if url == "memory://":
        return StoreUrl("memory")
    scheme = url.partition(":")[0].lower()
    if scheme in _LATER:
        raise ValueError(
            f'the store "{scheme}" is not available in this release; write "sqlite:///gateway.db"'
        )
    match = _SQLITE.fullmatch(url)
    if match is None:
        raise ValueError(_FORMS)
    path = unquote(match[1])
    if path.endswith("/") or "\0" in path:
        raise ValueError(f"names no file; {_FORMS}")
    if match[2] is None:
        return StoreUrl("sqlite", path)
    name, _, value = match[2].partition("=")
    if name != "synchronous":
        raise ValueError(f'has an unknown option "{name}"; the only one is synchronous')
    if value.upper() == "FULL":
        return StoreUrl("sqlite", path)
    if value.upper() == "NORMAL":
        return StoreUrl("sqlite", path, "NORMAL")
    raise ValueError(f'has synchronous "{value}"; it must be FULL or NORMAL')


def wrong_store_url(url: str) -> str | None:
    """Return what is wrong with the URL of a store, None if nothing is."""
    try:
        parse_store_url(url)
    except ValueError as error:
        return str(error)
    return None
