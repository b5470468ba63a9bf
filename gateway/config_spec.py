"""What a key of the YAML file says of itself: see config.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

#: Whole numbers stay exact in JSON, durations within what timers and time stamps can hold.
MAX_NUMBER: Final = 2**53 - 1
MAX_SECONDS: Final = 315_360_000


@dataclass(frozen=True, slots=True)
class Spec:
    """What the operator is told about a key, and what its value must satisfy.

    `minimum` and `maximum` are inclusive; `zero` says what 0 means where it is allowed
    although it lies below `minimum`. `choices` are the only texts allowed, unless the key is
    `open` to those of extensions; `later` are those that a later release will allow. `check`
    takes a text, or each text of a list, and returns None or what is wrong and how to mend it;
    it never repeats a value that could hold a secret. The value of a `secret` key appears in no
    message and no repr. A text may be empty if its default is, or with `may_be_empty`.
    """

    doc: str
    unit: str = ""
    minimum: float = 0
    maximum: float = MAX_NUMBER
    zero: str = ""
    choices: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    open: bool = False
    check: Callable[[str], str | None] | None = None
    secret: bool = False
    may_be_empty: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the file: its dotted name, its default, whose type is the key's, and its Spec."""

    key: str
    default: object
    spec: Spec

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]

    @property
    def variable(self) -> str:
        """The environment variable that overrides the key."""
        return "GATEWAY_" + self.key.replace(".", "_").upper()


def about(doc: str, unit: str = "", **bounds: Any) -> dict[str, Spec]:
    """Return the metadata of a field."""
    return {"spec": Spec(doc, unit, **bounds)}


def seconds(doc: str, zero: str = "") -> dict[str, Spec]:
    """Return the metadata of a duration; `zero` says what 0 means, if it is allowed."""
    # The protocol's timers are told to clients in whole milliseconds.
    return about(doc, "seconds", minimum=0.001, maximum=MAX_SECONDS, zero=zero)


def limit(doc: str, unit: str = "", minimum: float = 1) -> dict[str, Spec]:
    """Return the metadata of a limit, of which 0 is none."""
    return about(doc, unit, minimum=minimum, zero="no limit")
