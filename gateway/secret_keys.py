"""Where the keys that sign resume tokens and webhooks come from."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.config import ResumeConfig
from gateway.config_checks import MIN_SECRET_CHARACTERS
from gateway.errors import ConfigError

logger = logging.getLogger(__name__)

_CREDENTIAL: Final = "resume-secret-key"
#: The generated key, in the state directory.
KEY_FILE: Final = "resume.key"
_WEBHOOK_CREDENTIAL: Final = "webhook-secret"
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


def _read(path: Path, what: str) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path}: {what} cannot be read: {reason}") from None
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise ConfigError(f"{path}: {what} is empty; write one key a line")
    for number, key in enumerate(keys, 1):
        if len(key) < MIN_SECRET_CHARACTERS:
            raise ConfigError(
                f"{path}: {what}: key {number} is shorter than {MIN_SECRET_CHARACTERS} "
                "characters; make one with: openssl rand -hex 32"
            )
    if mode & _OTHERS:
        logger.warning("%s can be read by others; do: chmod 600 %s", path, path)
    return keys


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
