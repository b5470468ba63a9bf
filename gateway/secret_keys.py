"""Where the keys that sign resume tokens and webhooks come from."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.config import ResumeConfig, StoreConfig
from gateway.config_checks import MIN_SECRET_CHARACTERS
from gateway.errors import ConfigError

logger = logging.getLogger(__name__)

_CREDENTIAL: Final = "resume-secret-key"
#: The generated key, in the state directory.
KEY_FILE: Final = "resume.key"
_WEBHOOK_CREDENTIAL: Final = "webhook-secret"
_STORE_CREDENTIAL: Final = "store-password"
_OTHERS: Final = 0o077


def load_secret_keys(
    config: ResumeConfig, environ: Mapping[str, str], state_dir: Path, *, generate: bool = True
) -> tuple[str, ...]:
    """Return the signing keys: the first signs, all verify.

    They come from `resume.secret_keys`, else `resume.secret_key_file`, else the systemd
    credential `resume-secret-key`, else `resume.key` in the state directory, which is made
    on the first start unless `generate` is false. Raises ConfigError.
    """
    if config.secret_keys:
        return config.secret_keys
    if config.secret_key_file:
        return _read(Path(config.secret_key_file), "resume.secret_key_file")
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and (Path(directory) / _CREDENTIAL).exists():
        return _read(Path(directory) / _CREDENTIAL, f"credential {_CREDENTIAL}")
    path = state_dir / KEY_FILE
    if generate and not path.exists():
        _generate(path)
    return _read(path, "the generated key")


def load_webhook_secrets(
    section: str, secret_file: str, environ: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the secrets that sign what goes to the game's backend, each of them everything.

    They come from the file that `section` of the YAML file names, else the systemd credential
    `webhook-secret`. Raises ConfigError when there are none: the backend has to know them, so
    none are made up.
    """
    if secret_file:
        return _read(Path(secret_file), f"{section}.secret_file")
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and (Path(directory) / _WEBHOOK_CREDENTIAL).exists():
        return _read(Path(directory) / _WEBHOOK_CREDENTIAL, f"credential {_WEBHOOK_CREDENTIAL}")
    raise ConfigError(
        f"{section}.secret_file: must be given with {section}.url; make a file with: "
        "openssl rand -hex 32"
    )


def load_store_password(config: StoreConfig, environ: Mapping[str, str]) -> str:
    """Return the password of `store`, empty if it has none beside its URL.

    It comes from `store.password`, else `store.password_file`, else the systemd credential
    `store-password`. Raises ConfigError.
    """
    if config.password:
        return config.password
    if config.password_file:
        return _read_password(Path(config.password_file), "store.password_file")
    directory = environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory or "") / _STORE_CREDENTIAL
    if directory and path.exists():
        return _read_password(path, f"credential {_STORE_CREDENTIAL}")
    return ""


def _read_password(path: Path, what: str) -> str:
    lines = _lines(path, what)
    if len(lines) != 1:
        raise ConfigError(f"{path}: {what} must have the password in one line, has {len(lines)}")
    return lines[0]


def _read(path: Path, what: str) -> tuple[str, ...]:
    keys = _lines(path, what)
    if not keys:
        raise ConfigError(f"{path}: {what} is empty; write one key a line")
    for number, key in enumerate(keys, 1):
        if len(key) < MIN_SECRET_CHARACTERS:
            raise ConfigError(
                f"{path}: {what}: key {number} is shorter than {MIN_SECRET_CHARACTERS} "
                "characters; make one with: openssl rand -hex 32"
            )
    return keys


def _lines(path: Path, what: str) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path}: {what} cannot be read: {reason}") from None
    if mode & _OTHERS:
        logger.warning("%s can be read by others; do: chmod 600 %s", path, path)
    return tuple(line.strip() for line in lines if line.strip())


def _generate(path: Path) -> None:
    """Write a new key; two gateways that start at once agree on one of theirs."""
    # Not the process id: it is 1 in every container, and a start that was killed leaves a file.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        except FileExistsError:
            return
        finally:
            temporary.unlink()
    except OSError as error:
        raise ConfigError(f"{path}: the signing key cannot be written: {error.strerror}") from None
    logger.info("wrote a new signing key to %s", path)
