"""Writes the commented default configuration from the settings' own metadata."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from gateway.config import Config, entries
from gateway.config_spec import MAX_NUMBER, MAX_SECONDS, Setting

_LINE_WIDTH: Final = 100


def render_default() -> str:
    """Return the commented YAML file with every key and its default."""
    header = (
        "Configuration of game-gateway: every key with its default. Keep only what you change; "
        "`game-gateway check-config FILE` tells what is wrong with a file.",
        "Durations are in seconds, from 0.001 to ten years, sizes in bytes. A limit of 0 means no "
        "limit. A relative path starts at the working directory.",
        "A variable GATEWAY_<SECTION>_<KEY>, such as GATEWAY_SERVER_PORT or "
        "GATEWAY_AUTH_PASSWORD_FILE, overrides the file; lists are separated by commas there.",
    )
    lines = [line for paragraph in header for line in _comment(paragraph, "")]
    return "\n".join([*lines, *_render(Config, "", "")]) + "\n"


def _render(section: type[Any], prefix: str, indent: str) -> Iterator[str]:
    for setting, subsection in entries(section, prefix):
        if not prefix:
            yield ""
        yield from _comment(f"{setting.spec.doc} {_bounds(setting)}".strip(), indent)
        if subsection is None:
            yield f"{indent}{setting.name}: {_render_value(setting)}"
        else:
            yield f"{indent}{setting.name}:"
            yield from _render(subsection, setting.key + ".", indent + "  ")


def _comment(text: str, indent: str) -> list[str]:
    start = indent + "# "
    return textwrap.wrap(
        text,
        _LINE_WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _render_value(setting: Setting) -> str:
    default, bare = setting.default, bool(setting.spec.choices)
    if isinstance(default, tuple):
        return "[" + ", ".join(text if bare else json.dumps(text) for text in default) + "]"
    return str(default) if bare else json.dumps(default)


def _bounds(setting: Setting) -> str:
    spec, default = setting.spec, setting.default
    if spec.choices:
        many = "One or more of" if isinstance(default, tuple) else "One of"
        return f"{many}: {', '.join(spec.choices)}."
    if not isinstance(default, int | float) or isinstance(default, bool):
        return ""
    parts = [spec.unit] if spec.unit else []
    if spec.maximum not in {MAX_NUMBER, MAX_SECONDS}:
        parts.append(f"{spec.minimum:.16g} to {spec.maximum:.16g}")
    elif spec.unit != "seconds" and (spec.minimum != 1 or not spec.zero):
        parts.append(f"at least {spec.minimum:.16g}")
    text = ", ".join(parts)
    zero = f"0 = {spec.zero}" if spec.zero else ""
    text = "; ".join(part for part in (text, zero) if part)
    return text[:1].upper() + text[1:] + "." if text else ""
