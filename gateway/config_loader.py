"""Reads the configuration: YAML file, then `GATEWAY_<SECTION>_<KEY>` variables; checks it all.

Every problem of a configuration is reported at once, each with its place and its mending. No
message repeats a secret: the parser's own texts, which quote the file, are never passed on.
Loading changes nothing outside: no file or directory is made here.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from gateway import config_auth
from gateway.config import Config, StoreConfig, entries
from gateway.config_checks import MIN_SECRET_CHARACTERS
from gateway.config_spec import MAX_NUMBER, Setting
from gateway.config_yaml import Wrong, compose, read_text
from gateway.errors import ConfigError
from gateway.store_url import RedisUrl, parse_store_url

_MAX_QUOTED: Final = 60
#: What a stored message may count beside its data: sender, type, time and bookkeeping.
STORED_BESIDE: Final = 1024
#: Whole numbers with more digits are out of every key's range and need not be exact.
_MAX_EXACT_DIGITS: Final = 20

#: Other keys are not repeated: a slip such as `secret_keys:[...]` makes a secret part of a key.
_PLAIN_KEY: Final = re.compile(rf"[\w.-]{{1,{MIN_SECRET_CHARACTERS - 1}}}")
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)")
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_ENDLESS: Final = re.compile(r"[-+]?\.?(?:inf|nan)", re.IGNORECASE)
_YES: Final = frozenset({"yes", "y", "on", "1"})
_NO: Final = frozenset({"no", "n", "off", "0"})
_YAML: Final = "tag:yaml.org,2002:"
_KINDS: Final = {
    "str": "a text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "null": "empty",
    "timestamp": "a date",
    "seq": "a list",
    "map": "a section",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: in `source`, a file or a variable, at `line` and `column`.

    `key` is the dotted name of the setting, None when the whole file is meant.
    """

    source: str
    line: int | None
    key: str | None
    message: str
    column: int | None = None

    def __str__(self) -> str:
        """Return the problem as one line."""
        place = ":".join(str(p) for p in (self.source, self.line, self.column) if p is not None)
        return ": ".join(part for part in (place, self.key, self.message) if part)


class ConfigInvalid(ConfigError):
    """The configuration has these problems; the text lists all of them, one a line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the configuration in the file `path`, overridden by variables in `environ`.

    Without a path, the embedded defaults stand for the file. Raises ConfigInvalid, which is a
    ConfigError, with every problem found; a file that cannot be read is one, too.
    """
    loader = _Loader()
    if path is not None:
        loader.read_file(path)
    loader.read_environment(environ)
    config = _build(Config, "", loader.values)
    loader.check_contradictions(config)
    if loader.problems:
        raise ConfigInvalid(sorted(loader.problems, key=lambda problem: problem.line or MAX_NUMBER))
    return config


def check_contradictions(config: Config) -> None:
    """Raise ConfigInvalid for values that are possible alone but not together."""
    problems = [Problem("", None, keys[0], message) for keys, message in _contradictions(config)]
    if problems:
        raise ConfigInvalid(problems)


def _build(section: type[T], prefix: str, values: Mapping[str, object]) -> T:
    arguments: dict[str, object] = {}
    for setting, subsection in entries(section, prefix):
        if subsection is not None:
            arguments[setting.name] = _build(subsection, setting.key + ".", values)
        elif setting.key in values:
            arguments[setting.name] = values[setting.key]
    return section(**arguments)


def _walk(section: type[Any] = Config, prefix: str = "") -> Iterator[tuple[Setting, bool]]:
    for setting, subsection in entries(section, prefix):
        yield setting, subsection is not None
        if subsection is not None:
            yield from _walk(subsection, setting.key + ".")


class _Loader:
    """Collects values, their places and all problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.values: dict[str, object] = {}
        self._places: dict[str, tuple[str, int | None]] = {}
        self._broken: set[str] = set()
        self._settings = [setting for setting, is_section in _walk() if not is_section]

    def read_file(self, path: Path) -> None:
        """Take the values of a YAML file."""
        source = str(path) if str(path).isprintable() else repr(str(path))
        try:
            root = compose(read_text(path))
        except Wrong as wrong:
            self.problems.append(Problem(source, wrong.line, None, wrong.message, wrong.column))
        else:
            if root is not None:
                self._read_section(source, root, Config, "")

    def _read_section(self, source: str, node: yaml.Node, section: type[Any], prefix: str) -> None:
        if node.tag == _YAML + "null":
            return
        known = {setting.name: (setting, inner) for setting, inner in entries(section, prefix)}
        if not isinstance(node, yaml.MappingNode):
            wanted = "be a section with keys" if prefix else "hold sections"
            message = f"must {wanted} such as {next(iter(known))}:, is {_kind(node)}"
            self._report(source, _line(node), prefix[:-1], message)
            return
        seen: dict[str, int] = {}
        for key_node, value in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self._report(source, line, prefix[:-1], "has a list or a section for a key")
                continue
            name = key_node.value
            key = prefix + (name if _PLAIN_KEY.fullmatch(name) else "(odd key)")
            if key_node.tag == _YAML + "merge":
                message = "merge keys are not supported; write the keys out"
                self._report(source, line, prefix + "<<", message)
            elif name in seen:
                message = f"given twice, first in line {seen[name]}; remove one"
                self._report(source, line, key, message)
            elif name not in known:
                self._report(source, line, key, self._unknown_key(prefix, name, known))
            else:
                setting, inner = known[name]
                if inner is None:
                    self._take(setting, value, source, line)
                else:
                    self._read_section(source, value, inner, key + ".")
            seen.setdefault(name, line)

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Take the values of variables; those of other programs are left alone."""
        by_variable = {setting.variable: setting for setting in self._settings}
        sections = {setting.name for setting, _ in entries()}
        for variable in sorted(environ):
            prefix, _, rest = variable.partition("_")
            if variable in by_variable:
                self._take(by_variable[variable], environ[variable], variable, None)
            elif prefix == "GATEWAY" and rest.partition("_")[0].lower() in sections:
                source = variable if variable.isprintable() else _quote(variable)
                self._report(source, None, None, self._unknown_variable(rest.lower()))

    def _take(self, setting: Setting, raw: yaml.Node | str, source: str, line: int | None) -> None:
        wrongs: list[Wrong] = []
        try:
            if isinstance(setting.default, tuple):
                self.values[setting.key] = tuple(_parse_list(setting, raw, wrongs))
            else:
                self.values[setting.key] = _parse(setting, raw)
        except Wrong as wrong:
            wrongs.append(wrong)
        self._places[setting.key] = (source, line)
        for each in wrongs:
            self._report(source, each.line or line, setting.key, each.message)
            self._broken.add(setting.key)

    def _report(self, source: str, line: int | None, key: str | None, message: str) -> None:
        self.problems.append(Problem(source, line, key or None, message))

    def _unknown_key(self, prefix: str, name: str, known: Iterable[str]) -> str:
        elsewhere = {setting.name: setting.key for setting, _ in _walk()}
        elsewhere |= {setting.key: setting.key for setting in self._settings}
        near = _near(name, {sibling: sibling for sibling in known}, elsewhere)
        if near == name:
            section, _, last = name.rpartition(".")
            where = f'in the section "{section}"' if section else "without indentation"
            return f'unknown key; write "{last}" {where}'
        if near is not None:
            return f'unknown key; did you mean "{near}"?'
        return f"unknown key; known here: {', '.join(known)}"

    def _unknown_variable(self, rest: str) -> str:
        section, _, name = rest.partition("_")
        here = {
            setting.key.partition(".")[2].replace(".", "_"): setting.variable
            for setting in self._settings
            if setting.key.startswith(section + ".")
        }
        near = _near(name, here, {setting.name: setting.variable for setting in self._settings})
        if near is not None:
            return f"unknown variable; did you mean {near}?"
        return f"unknown variable; known for {section}: {', '.join(here.values())}"

    def check_contradictions(self, config: Config) -> None:
        """Report values that are possible alone but not together."""
        for keys, message in _contradictions(config):
            if self._broken.isdisjoint(keys):
                # The defaults go together, so at least one of the keys was given.
                key = next(key for key in keys if key in self._places)
                self._report(*self._places[key], key, message)


def _contradictions(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    limits, mailbox, server = config.limits, config.mailbox, config.server
    if limits.messages_per_second > 0 and limits.burst < 1:
        message = "limits.burst must be at least 1 while limits.messages_per_second is not 0"
        yield ("limits.burst", "limits.messages_per_second"), message
    if config.api.requests_per_second > 0 and config.api.burst < 1:
        message = "api.burst must be at least 1 while api.requests_per_second is not 0"
        yield ("api.burst", "api.requests_per_second"), message
    for key, room, beside in (
        ("mailbox.max_bytes", mailbox.max_bytes, STORED_BESIDE),
        ("mailbox.total_bytes", mailbox.total_bytes, STORED_BESIDE),
        ("limits.send_buffer_bytes", limits.send_buffer_bytes, 0),
    ):
        if limits.message_bytes and 0 < room < limits.message_bytes + beside:
            more = f" + {beside}" if beside else ""
            message = (
                f"impossible value: {key} ({room}) must be at least limits.message_bytes "
                f"({limits.message_bytes}{more}), or the largest message never fits; raise the "
                "one or lower the other"
            )
            yield (key, "limits.message_bytes"), message
    yield from config_auth.contradictions(config.auth)
    for number, method in enumerate(config.auth.methods, 1):
        # Those of extensions are known when these have been loaded.
        if method not in config_auth.METHODS and not config.extensions:
            message = f"entry {number} {_not_one_of(config_auth.METHODS, method)}"
            yield ("auth.methods", "extensions"), message
    if config.resume.secret_keys and config.resume.secret_key_file:
        message = "give either resume.secret_keys or resume.secret_key_file, not both"
        yield ("resume.secret_key_file", "resume.secret_keys"), message
    yield from _contradictions_of_store(config.store)
    yield from _contradictions_of_players(config)
    if not server.host and not server.unix_socket:
        message = "must not be empty without server.unix_socket: nothing would listen"
        yield ("server.host", "server.unix_socket"), message
    if bool(server.tls.certificate) != bool(server.tls.key):
        message = "server.tls needs both certificate and key"
        yield ("server.tls.certificate", "server.tls.key"), message
    if server.tls.certificate and server.public_url.lower().startswith("http://"):
        message = "must begin with https://, for server.tls is given"
        yield ("server.public_url", "server.tls.certificate"), message
    if server.port and config.metrics.listen == f"{server.host}:{server.port}":
        message = "this is the main listener's address; take another port, or leave it empty"
        yield ("metrics.listen", "server.port", "server.host"), message


def _contradictions_of_store(store: StoreConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    if store.password and store.password_file:
        message = "give either store.password or store.password_file, not both"
        yield ("store.password_file", "store.password"), message
    if not (store.password or store.password_file):
        return
    keys = ("store.password_file", "store.password", "store.url")
    url = parse_store_url(store.url)
    if not isinstance(url, RedisUrl):
        yield keys, "only the store redis:// has a password"
    elif url.password:
        yield keys, "store.url has a password, too; take it out there"


def _contradictions_of_players(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    webhook, rooms = config.auth.webhook, config.rooms
    if rooms.open and rooms.webhook.url:
        message = "nobody is asked while any player may join; set rooms.open to false"
        yield ("rooms.webhook.url", "rooms.open"), message
    connect = config.limits.connect_timeout
    if webhook.url and 0 < connect <= webhook.timeout:
        message = (
            f"auth.webhook.timeout ({webhook.timeout:.16g}) must be below limits.connect_timeout "
            f"({connect:.16g}), or the client is closed before the backend's answer"
        )
        yield ("auth.webhook.timeout", "limits.connect_timeout", "auth.webhook.url"), message


def _near(word: str, here: Mapping[str, str], elsewhere: Mapping[str, str]) -> str | None:
    word = word.lower().replace("-", "_")
    for known in (here, elsewhere):
        if word in known:
            return known[word]
    for known, cutoff in ((here, 0.7), (elsewhere, 0.8)):
        if found := difflib.get_close_matches(word, known, n=1, cutoff=cutoff):
            return known[found[0]]
    return None


def _parse(setting: Setting, raw: yaml.Node | str) -> object:
    if isinstance(raw, str):
        text, plain = raw.strip(), True
    elif not isinstance(raw, yaml.ScalarNode):
        raise Wrong(f"must be {_wanted(setting)}, is {_kind(raw)}")
    elif raw.tag == _YAML + "null":
        raise Wrong("has no value; give one, or remove the line to keep the default")
    else:
        text, plain = raw.value, raw.style is None
    if isinstance(setting.default, str):
        if isinstance(raw, yaml.Node):
            _require_text(raw)
        empty = not setting.default or setting.spec.may_be_empty
        _check_text(setting, text, may_be_empty=empty)
        return text
    if not plain:
        raise Wrong(f"must be {_wanted(setting)}, is a quoted text; remove the quotes")
    if isinstance(setting.default, bool):
        return _parse_bool(text)
    return _parse_number(setting, text)


def _parse_bool(text: str) -> bool:
    if text in {"true", "True", "TRUE"}:
        return True
    if text in {"false", "False", "FALSE"}:
        return False
    meant = "true" if text.lower() in _YES else "false" if text.lower() in _NO else ""
    mending = f"; write {meant}" if meant else ""
    raise Wrong(f"must be true or false, is {_quote(text)}{mending}")


def _parse_number(setting: Setting, text: str) -> float:
    spec, whole = setting.spec, isinstance(setting.default, int)
    if _ENDLESS.fullmatch(text):
        raise Wrong(f"must be a finite number, is {_quote(text)}")
    if not (_INT if whole else _FLOAT).fullmatch(text):
        raise Wrong(f"must be {_wanted(setting)}, is {_quote(text)}")
    number = int(text) if whole and len(text) <= _MAX_EXACT_DIGITS else float(text)
    if number < spec.minimum and not (number == 0 and spec.zero):
        zero = f", or 0 ({spec.zero})" if spec.zero else ""
        raise Wrong(f"must be at least {spec.minimum:.16g}{zero}, is {_quote(text)}")
    if number > spec.maximum:
        raise Wrong(f"must be at most {spec.maximum:.16g}, is {_quote(text)}")
    return number


def _parse_list(setting: Setting, raw: yaml.Node | str, wrongs: list[Wrong]) -> list[str]:
    found: list[yaml.Node | str]
    if isinstance(raw, str):
        parts = re.split(r"[,\n]" if setting.spec.secret else ",", raw)
        found = [part.strip() for part in parts if part.strip()]
    elif isinstance(raw, yaml.SequenceNode):
        found = list(raw.value)
    else:
        raise Wrong(f"must be {_wanted(setting)}, is {_kind(raw)}")
    if setting.default and not found:
        raise Wrong("must have at least one entry")
    numbers: dict[str, int] = {}
    for number, entry in enumerate(found, 1):
        try:
            text = entry if isinstance(entry, str) else _require_text(entry)
            _check_text(setting, text, may_be_empty=False)
            if text in numbers:
                raise Wrong(f"repeats entry {numbers[text]}; remove one")
            numbers[text] = number
        except Wrong as wrong:
            line = None if isinstance(entry, str) else _line(entry)
            wrongs.append(Wrong(f"entry {number} {wrong.message}", line))
    return list(numbers)


def _require_text(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise Wrong(f"must be a text, is {_kind(node)}")
    if node.style is None and node.tag == _YAML + "null":
        raise Wrong("is empty; remove it")
    if node.style is None and node.tag != _YAML + "str":
        raise Wrong(f"must be a text, is {_kind(node)}; put it in quotes")
    return str(node.value)


def _check_text(setting: Setting, text: str, *, may_be_empty: bool) -> None:
    spec = setting.spec
    if not text:
        if not may_be_empty:
            raise Wrong("must not be empty")
    elif not text.isprintable():
        raise Wrong("has a line break, a control character or an unusual space in it; remove it")
    elif text in spec.later:
        raise Wrong(f"{_quote(text)} is not available in this release; remove it")
    elif spec.choices and text not in spec.choices and not spec.open:
        raise Wrong(_not_one_of(spec.choices, text))
    elif spec.check is not None and (wrong := spec.check(text)):
        raise Wrong(wrong)


def _not_one_of(choices: tuple[str, ...], text: str) -> str:
    near = _near(text, {choice.lower(): choice for choice in choices}, {})
    mending = f'; did you mean "{near}"?' if near else ""
    return f"must be one of {', '.join(choices)}, is {_quote(text)}{mending}"


def _wanted(setting: Setting) -> str:
    if isinstance(setting.default, tuple):
        return "a list, in [brackets] or with a dash before each entry"
    names = {
        str: "a text",
        bool: "true or false",
        int: "a whole number such as 8",
        float: "a number",
    }
    return names[type(setting.default)]


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode) and node.style is not None:
        return "a text"
    return _KINDS.get(node.tag.removeprefix(_YAML), "of another kind")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _quote(text: str) -> str:
    shown = text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "..."
    return json.dumps(shown).replace("\x7f", "\\u007f")
