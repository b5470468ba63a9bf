"""The gateway's certificate: `server.tls` in the YAML file."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from gateway.config import TlsConfig
from gateway.errors import ConfigError

logger = logging.getLogger(__name__)

#: For TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: Write for the group, anything for others. Reading by a group such as ssl-cert is usual.
_TOO_OPEN: Final = 0o027


def load_tls(config: TlsConfig, now: float) -> ssl.SSLContext | None:
    """Return what TLS connections are accepted with; None without `server.tls`.

    `now` is in Unix seconds: a certificate that is not valid then is used and warned about, for
    a gateway that some clients refuse serves more than one that does not start. Raises
    ConfigError for files that cannot be read or do not belong together.
    """
    if not config.certificate:
        return None
    certificate, key = Path(config.certificate), Path(config.key)
    chain = _read(certificate, "server.tls.certificate")
    _read(key, "server.tls.key")
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        raise ConfigError(
            f"server.tls.certificate: {certificate} is no certificate; it must hold the "
            "certificate and its chain in PEM form, the gateway's own first"
        ) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, certificate, key)
    if key.stat().st_mode & _TOO_OPEN:
        logger.warning("%s can be read or changed by others; do: chmod 600 %s", key, key)
    _check_dates(certificate, leaf, datetime.fromtimestamp(now, UTC))
    return context


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what}: {path} cannot be read: {error.strerror}") from None


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    encrypted = False

    def no_password() -> str:
        # Without it OpenSSL would ask on the terminal.
        nonlocal encrypted
        encrypted = True
        return ""

    try:
        context.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        if encrypted:
            raise ConfigError(
                f"server.tls.key: {key} is encrypted; write it without a password: "
                f"openssl pkey -in {key} -out FILE"
            ) from None
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"server.tls.key: {key} is not the key of the first certificate in {certificate}"
            ) from None
        raise ConfigError(
            f"server.tls: {certificate} and {key} cannot be used: "
            f"{error.reason or error.strerror or 'the key is no private key in PEM form'}"
        ) from None


def _check_dates(path: Path, leaf: x509.Certificate, now: datetime) -> None:
    if leaf.not_valid_after_utc < now:
        logger.warning("the certificate %s has expired at %s", path, leaf.not_valid_after_utc)
    elif leaf.not_valid_before_utc > now:
        logger.warning("the certificate %s is valid from %s only", path, leaf.not_valid_before_utc)
