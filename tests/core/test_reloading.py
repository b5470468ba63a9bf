"""What a running gateway takes over of a changed configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import Config, entries
from gateway.reloading import RELOADABLE, merge


def keys(section: type[Any] = Config, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys."""
    for setting, inner in entries(section, prefix):
        if inner is None:
            yield setting.key
        else:
            yield from keys(inner, setting.key + ".")


def changed(config: Any, key: str, value: object) -> Any:
    """Return a copy with another value for a dotted key."""
    name, _, rest = key.partition(".")
    inner = changed(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: inner})


def value(config: Any, key: str) -> object:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def test_all_keys_that_are_said_to_be_reloadable_exist() -> None:
    assert set(keys()) >= RELOADABLE


def test_the_same_configuration_changes_nothing() -> None:
    merged = merge(Config(), Config())
    assert merged.config == Config()
    assert (merged.changed, merged.waiting) == ((), ())


@pytest.mark.parametrize("key", sorted(keys()))
def test_each_key_is_taken_over_or_named(key: str) -> None:
    new = changed(Config(), key, "another")
    merged = merge(Config(), new)
    if key in RELOADABLE:
        assert (merged.changed, merged.waiting) == ((key,), ())
        assert merged.config == new
    else:
        assert (merged.changed, merged.waiting) == ((), (key,))
        assert merged.config == Config()


def test_both_kinds_at_once() -> None:
    new = changed(changed(Config(), "limits.burst", 7), "server.port", 9000)
    merged = merge(Config(), new)
    assert (merged.changed, merged.waiting) == (("limits.burst",), ("server.port",))
    assert value(merged.config, "limits.burst") == 7
    assert value(merged.config, "server.port") == 8080
    # What waits goes on waiting until the file says the same again.
    assert merge(merged.config, new).waiting == ("server.port",)
    assert merge(merged.config, changed(new, "server.port", 8080)).waiting == ()
