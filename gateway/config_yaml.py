"""Reads YAML strictly: nodes with their lines, nothing that is more than it looks.

The parser's own texts quote the file, which may hold secrets, so they are never passed on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

MAX_FILE_BYTES: Final = 1024 * 1024
_MAX_DEPTH: Final = 16
_ALIASES: Final = (
    "anchors and aliases (& and *) are not supported; write the value out, and put a text that "
    "begins with & or * in quotes"
)
_TAGS: Final = "tags (!) are not supported; put a text that begins with ! in quotes"
#: How the parser's complaint begins (or what it was doing), and what to tell the operator.
_SENTENCES: Final = (
    ("while scanning an alias", _ALIASES),
    ("while scanning an anchor", _ALIASES),
    ("while scanning a tag", _TAGS),
    ("while parsing a tag", _TAGS),
    ("found undefined tag handle", _TAGS),
    ("found character '\\t'", "a tab cannot indent a line or begin a value; use spaces"),
    ("found character", "a value cannot begin with this character; put the text in quotes"),
    (
        "mapping values are not allowed",
        'a key is not allowed here; indent it like its neighbours, or put a text with ": " in '
        "quotes",
    ),
    ("could not find expected ':'", "a key needs a colon and a space after it"),
    ("expected <block end>", "this does not belong here; check indentation, dashes and quotes"),
    ("sequence entries are not allowed", "a list entry (-) is not allowed here; begin a new line"),
    ("expected ',' or ']'", "a list that began with [ needs a comma or ] here"),
    ("expected ',' or '}'", "a section that began with { needs a comma or } here"),
    ("expected the node content", "a value or a closing bracket is missing here"),
    ("found unexpected end of stream", "a quoted text is not closed before the file ends"),
    ("found unknown escape", "a backslash in double quotes is an escape; use single quotes"),
    ("expected a single document", "only one YAML document is allowed; remove the --- line"),
)


class Wrong(Exception):
    """What is wrong with a value or a file; becomes a Problem where the place is known."""

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


def read_text(path: Path) -> str:
    """Return a configuration file's text. Raises Wrong."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise Wrong("there is no such file; check the path") from None
    except PermissionError:
        raise Wrong("may not be read by this user; check owner and mode") from None
    except IsADirectoryError:
        raise Wrong("is a directory; name the file in it") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Wrong(f"cannot be read: {reason}") from None
    if len(content) > MAX_FILE_BYTES:
        raise Wrong(f"is larger than {MAX_FILE_BYTES} bytes; is this the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Wrong("is not UTF-8 text; save it in that encoding", line) from None


class _Refused(yaml.MarkedYAMLError):
    """A construct of YAML that a configuration does not need; `problem` is for the operator."""


class _StrictLoader(yaml.SafeLoader):
    """Builds nodes only, and refuses whatever makes them more than they look."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused(problem=_ALIASES, problem_mark=event.start_mark)
        if event.tag is not None:
            raise _Refused(problem=_TAGS, problem_mark=event.start_mark)
        if self._depth >= _MAX_DEPTH:
            raise _Refused(problem="nested too deeply", problem_mark=event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def compose(text: str) -> yaml.Node | None:
    """Return the one document's root node, None for an empty text. Raises Wrong."""
    general = "is not valid YAML; check quotes, brackets, colons and indentation here"
    try:
        loader = _StrictLoader(text)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = error.position - before.rfind("\n")
        message = f"a file may not hold the control character U+{error.character:04X}; remove it"
        raise Wrong(message, before.count("\n") + 1, column) from None
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or loader.get_mark()
        if isinstance(error, _Refused):
            sentence = str(error.problem)
        else:
            said = (str(error.problem), str(error.context))
            sentence = next(
                (told for start, told in _SENTENCES if any(s.startswith(start) for s in said)),
                general,
            )
    except (ValueError, OverflowError):
        # The scanner trusts numbers in escapes and directives, such as "\\U99999999".
        mark, sentence = loader.get_mark(), general
    raise Wrong(sentence, mark.line + 1, mark.column + 1)
