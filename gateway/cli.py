"""The command line: PROTOCOL 4. Exit 2 for usage and configuration errors, 1 for failures."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import getpass
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from gateway.api_keys import SCOPES, ApiKeysError, ApiKeysFile, in_order, parse_scopes
from gateway.auth.users import Users
from gateway.auth.users_format import UsersError
from gateway.building import api_keys_path
from gateway.building_auth import open_users, users_path
from gateway.config import Config
from gateway.config_loader import load_config
from gateway.config_render import render_default
from gateway.errors import ConfigError, ConnectRefused, GatewayError
from gateway.lifecycle import serve
from gateway.logs import configure_logging
from gateway.secret_keys import KEY_FILE, load_secret_keys
from gateway.server import Gateway
from gateway.store_url import RedisUrl, parse_store_url
from gateway.stores.sqlite_backup import BackupError, make_backup, restore_backup
from gateway.tokens import Tokens

_USAGE: Final = 2
_FAILURE: Final = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return _USAGE
    except (ApiKeysError, BackupError, UsersError) as error:
        print(f"game-gateway: {error}", file=sys.stderr)
        return _FAILURE
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="game-gateway", description="A message gateway for games: a player is no socket."
    )
    parser.add_argument("--version", action="version", version=version("game-gateway"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="run the gateway")
    _add_config(command)
    command.add_argument("--host", help="address to listen on, instead of server.host")
    command.add_argument("--port", type=_port, help="port to listen on, instead of server.port")
    command.set_defaults(run=_serve)

    command = commands.add_parser("check-config", help="check a configuration file")
    command.add_argument("file", type=Path, metavar="FILE")
    command.set_defaults(run=_check_config)

    command = commands.add_parser("default-config", help="print the default configuration")
    command.set_defaults(run=_default_config)

    users = commands.add_parser("users", help="manage users with passwords")
    actions = users.add_subparsers(required=True, metavar="ACTION")
    for name, run, text in (
        ("add", _users_add, "add a user; asks for the password"),
        ("passwd", _users_passwd, "change a user's password; asks for the new one"),
        ("remove", _users_remove, "remove a user"),
        ("list", _users_list, "list users and their true_ids"),
    ):
        action = actions.add_parser(name, help=text)
        _add_config(action)
        if name != "list":
            action.add_argument("username")
        if name in {"add", "passwd"}:
            action.add_argument(
                "--password-stdin",
                action="store_true",
                help="read the password from standard input instead of asking",
            )
        action.set_defaults(run=run)

    keys = commands.add_parser("api-keys", help="manage the keys of the HTTP API")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("add", help="add a key and print it, this once")
    _add_config(action)
    action.add_argument("name", help="whose key it is")
    action.add_argument(
        "scopes", nargs="+", metavar="SCOPE", help=f"what it is for: {', '.join(SCOPES)}"
    )
    action.set_defaults(run=_api_keys_add)
    action = actions.add_parser("remove", help="remove a key")
    _add_config(action)
    action.add_argument("name")
    action.set_defaults(run=_api_keys_remove)
    action = actions.add_parser("list", help="list keys by name, with their scopes")
    _add_config(action)
    action.set_defaults(run=_api_keys_list)

    command = commands.add_parser(
        "backup", help="copy the store, keys and accounts to a file; a gateway may run meanwhile"
    )
    _add_config(command)
    command.add_argument("--force", action="store_true", help="replace FILE if it exists")
    command.add_argument("file", type=Path, metavar="DESTINATION", help="the backup to write")
    command.set_defaults(run=_backup)

    command = commands.add_parser(
        "restore", help="put a backup in the place of the store; no gateway may run"
    )
    _add_config(command)
    command.add_argument(
        "--replace-files",
        action="store_true",
        help="take signing key, accounts and API keys from the backup even if there are some",
    )
    command.add_argument("file", type=Path, metavar="SOURCE", help="the backup")
    command.set_defaults(run=_restore)

    token = commands.add_parser("token", help="look into resume tokens")
    actions = token.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("inspect", help="say what a resume token holds")
    _add_config(action)
    action.add_argument("token", metavar="TOKEN", help="the token, or - to read it from input")
    action.set_defaults(run=_token_inspect)
    return parser


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="YAML configuration file")
    command.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("STATE_DIRECTORY") or "var"),
        help="where keys and data are kept (default: $STATE_DIRECTORY, else ./var)",
    )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)


def _serve(options: argparse.Namespace) -> int:
    overrides = {
        key: value
        for key, value in (("host", options.host), ("port", options.port))
        if value is not None
    }

    def load() -> Config:
        config = load_config(options.config, os.environ)
        return dataclasses.replace(config, server=dataclasses.replace(config.server, **overrides))

    config = load()
    configure_logging(config.log)
    gateway = Gateway(config, options.state_dir, os.environ)
    try:
        asyncio.run(serve(gateway, lambda url: print(f"Serving {url}", flush=True), load))
    except OSError as error:
        print(f"game-gateway: {error.strerror or error}", file=sys.stderr)
        return _FAILURE
    return 0


def _check_config(options: argparse.Namespace) -> int:
    load_config(options.file, os.environ)
    print(f"{options.file}: ok")
    return 0


def _default_config(_options: argparse.Namespace) -> int:
    print(render_default(), end="")
    return 0


def _users(options: argparse.Namespace) -> Users:
    return open_users(load_config(options.config, os.environ), options.state_dir)


def _make_folder(folder: Path, failure: type[GatewayError]) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise failure(f"{folder}: the directory cannot be made: {error.strerror}") from None


def _users_add(options: argparse.Namespace) -> int:
    config = load_config(options.config, os.environ)
    _make_folder(users_path(config, options.state_dir).parent, UsersError)
    user = open_users(config, options.state_dir).add(options.username, _ask_password(options))
    print(f"{user.username} {user.true_id}")
    return 0


def _users_passwd(options: argparse.Namespace) -> int:
    user = _users(options).set_password(options.username, _ask_password(options))
    print(f"{user.username} {user.true_id}")
    return 0


def _ask_password(options: argparse.Namespace) -> str:
    if options.password_stdin:
        try:
            return sys.stdin.buffer.readline().decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise UsersError("the password is not UTF-8; nothing was changed") from None
    try:
        password = getpass.getpass(f"Password for {options.username}: ")
        again = getpass.getpass("Again: ")
    except (EOFError, KeyboardInterrupt):
        raise UsersError("no password was given; nothing was changed") from None
    if again != password:
        raise UsersError("the passwords differ; nothing was changed")
    return password


def _users_remove(options: argparse.Namespace) -> int:
    _users(options).remove(options.username)
    return 0


def _users_list(options: argparse.Namespace) -> int:
    for user in _users(options).list():
        print(f"{user.username} {user.true_id}")
    return 0


def _api_keys_path(options: argparse.Namespace) -> Path:
    return api_keys_path(load_config(options.config, os.environ), options.state_dir)


def _api_keys_add(options: argparse.Namespace) -> int:
    path = _api_keys_path(options)
    scopes = parse_scopes(options.scopes)
    _make_folder(path.parent, ApiKeysError)
    _, secret = ApiKeysFile(path).add(options.name, scopes)
    print(secret)
    return 0


def _api_keys_remove(options: argparse.Namespace) -> int:
    ApiKeysFile(_api_keys_path(options)).remove(options.name)
    return 0


def _api_keys_list(options: argparse.Namespace) -> int:
    for key in ApiKeysFile(_api_keys_path(options)).list():
        print(key.name, *in_order(key.scopes))
    return 0


def _store_path(config: Config, options: argparse.Namespace) -> Path:
    url = parse_store_url(config.store.url)
    if isinstance(url, RedisUrl):
        raise ConfigError("store.url: what Redis keeps is backed up and restored with Redis")
    if url.kind != "sqlite":
        raise ConfigError(
            f"store.url: {config.store.url} keeps nothing in a file, so there is nothing to back "
            "up or restore"
        )
    path: Path = options.state_dir / url.path
    return path


def _state_files(config: Config, state_dir: Path) -> dict[str, Path]:
    """Return what belongs to a backup beside the store, by name: files of the state directory."""
    files = {"api-keys": api_keys_path(config, state_dir), "users": users_path(config, state_dir)}
    if not (config.resume.secret_keys or config.resume.secret_key_file):
        files[KEY_FILE] = state_dir / KEY_FILE
    inside = state_dir.resolve()
    return {name: path for name, path in files.items() if inside in path.resolve().parents}


def _backup(options: argparse.Namespace) -> int:
    config = load_config(options.config, os.environ)
    store, files = _store_path(config, options), _state_files(config, options.state_dir)
    kept = make_backup(store, files, options.file, force=options.force)
    print(f"{options.file}: {', '.join((store.name, *sorted(kept)))}")
    return 0


def _restore(options: argparse.Namespace) -> int:
    config = load_config(options.config, os.environ)
    store, files = _store_path(config, options), _state_files(config, options.state_dir)
    restored = restore_backup(options.file, store, files, replace_files=options.replace_files)
    for path in restored.files:
        print(f"restored {path}")
    for path in restored.replaced:
        print(f"what was there before is {path}")
    for path in restored.left:
        print(f"left as it is: {path}; --replace-files takes it from the backup")
    return 0


def _token_inspect(options: argparse.Namespace) -> int:
    config: Config = load_config(options.config, os.environ)
    text = sys.stdin.readline().strip() if options.token == "-" else options.token  # noqa: S105
    keys = load_secret_keys(config.resume, os.environ, options.state_dir, generate=False)
    try:
        token = Tokens(keys, config.resume.token_lifetime, time.time).verify_token(text)
    except ConnectRefused as error:
        print(f"game-gateway: {error}", file=sys.stderr)
        return _FAILURE
    issued = datetime.fromtimestamp(token.issued_at, UTC).isoformat()
    attributes = json.loads(token.attributes)
    said = {**dataclasses.asdict(token), "attributes": attributes, "issued_at": issued}
    print(json.dumps(said, indent=2))
    return 0
