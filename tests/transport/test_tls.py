"""TLS by the gateway itself, over real sockets with certificates made here."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from gateway.config import Config, TlsConfig
from gateway.errors import ConfigError
from gateway.server import Gateway
from gateway.tls import load_tls
from gateway.transport import listeners
from tests.certificates import Authority
from tests.gateway_process import run
from tests.transport.client import TRANSPORTS, WEBSOCKETS, Clients, Pair, soon
from tests.transport.conftest import change

pytestmark = pytest.mark.gen_test(timeout=60)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def tls_section(certificate: Path, key: Path) -> TlsConfig:
    return TlsConfig(str(certificate), str(key))


@pytest.fixture
def settings(settings: Config, authority: Authority) -> Config:
    return change(settings, server={"tls": tls_section(*authority.issue("gateway"))})


@pytest.fixture
def base_url(gateway: Gateway) -> str:
    return f"https://127.0.0.1:{gateway.port}"


@pytest.fixture
def clients(io_loop: IOLoop, base_url: str, authority: Authority) -> Iterator[Clients]:
    clients = Clients(base_url, ca_file=str(authority.ca_file))
    yield clients
    io_loop.run_sync(clients.close)


@WEBSOCKETS
async def test_players_talk_over_either_transport(clients: Clients) -> None:
    for transport in TRANSPORTS:
        player = await clients.player(transport)
        assert (await player.send(player, "hello"))["ok"]
        assert await player.message() == "hello"
    _, websocket = await clients.upgraded()
    await websocket.send('40{"guest":true}')
    assert str(await websocket.receive()).startswith("40")


async def test_the_url_says_https(gateway: Gateway, clients: Clients) -> None:
    assert gateway.url == f"https://127.0.0.1:{gateway.port}/"
    document = await soon(clients.fetch("/asyncapi.json"))
    assert b'"protocol":"wss"' in document.body


async def test_what_is_agreed_on_is_modern(clients: Clients) -> None:
    assert clients.tls is not None
    clients.tls.set_alpn_protocols(["h2", "http/1.1"])
    stream = await clients.stream()
    session = stream.reader._transport.get_extra_info("ssl_object")  # type: ignore[attr-defined]
    assert session.version() == "TLSv1.3"
    assert session.compression() is None
    assert session.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256"),
    ],
    ids=["TLS 1.1", "no forward secrecy", "no AEAD"],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_what_is_broken_is_not_spoken(
    clients: Clients, version: ssl.TLSVersion, ciphers: str
) -> None:
    assert clients.tls is not None
    clients.tls.minimum_version = clients.tls.maximum_version = version
    clients.tls.set_ciphers(ciphers)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await clients.stream()
    # The next one is none the worse, and nothing is in the log.
    clients.tls.minimum_version, clients.tls.maximum_version = (
        ssl.TLSVersion.TLSv1_2,
        ssl.TLSVersion.TLSv1_2,
    )
    clients.tls.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    assert (await clients.fetch("/healthz")).code == 200


async def test_plain_http_is_hung_up_on(gateway: Gateway, clients: Clients) -> None:
    async with Clients(f"http://127.0.0.1:{gateway.port}") as plain:
        stream = await plain.stream()
        stream.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in await stream.rest()
    assert (await clients.fetch("/healthz")).code == 200


async def test_who_never_finishes_the_handshake_is_dropped(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "_IDLE_TIMEOUT", 0.3)
    gateway = Gateway(settings, tmp_path / "state", {})
    await gateway.start()
    async with Clients(f"http://127.0.0.1:{gateway.port}") as plain:
        silent = await plain.stream()
        half = await plain.stream()
        half.write(b"\x16\x03\x01")
        assert await silent.rest() == await half.rest() == b""
    await gateway.stop()


# Another certificate


async def shown(clients: Clients) -> bytes:
    """Return the certificate that a new connection is shown."""
    stream = await clients.stream()
    session = stream.reader._transport.get_extra_info("ssl_object")  # type: ignore[attr-defined]
    certificate: bytes = session.getpeercert(binary_form=True)
    return certificate


def written(certificate: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


async def test_a_reload_shows_newcomers_the_new_certificate_and_drops_nobody(
    gateway: Gateway, clients: Clients, authority: Authority
) -> None:
    pair = await Pair.meet(clients)
    old, _ = authority.folder / "gateway.crt", authority.folder / "gateway.key"
    before = written(old)
    assert await shown(clients) == before
    # As certbot does: the files have the same names.
    renewed, _ = authority.issue("gateway")
    await gateway.reload(lambda: gateway.config)
    after = written(renewed)
    assert await shown(clients) == after != before
    await pair.talk()
    # And under other names.
    other = tls_section(*authority.issue("other"))
    await gateway.reload(lambda: change(gateway.config, server={"tls": other}))
    assert await shown(clients) == written(authority.folder / "other.crt")
    assert gateway.config.server.tls == other
    await pair.talk()


@pytest.mark.parametrize("half", [".crt", ".key"])
async def test_half_a_renewal_is_refused_and_the_old_certificate_stays(
    gateway: Gateway,
    clients: Clients,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
    half: str,
) -> None:
    before = await shown(clients)
    new = authority.issue("new")
    (source,) = [each for each in new if each.suffix == half]
    source.rename(authority.folder / f"gateway{half}")
    await gateway.reload(lambda: gateway.config)
    assert "is not the key of the first certificate in" in caplog.text
    caplog.clear()
    assert await shown(clients) == before


@pytest.mark.expects_warnings
async def test_tls_is_not_switched_off_by_a_reload(
    gateway: Gateway, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    await gateway.reload(lambda: change(gateway.config, server={"tls": TlsConfig()}))
    assert "a restart is needed for server.tls.certificate, server.tls.key" in caplog.text
    assert (await clients.fetch("/healthz")).code == 200


# Files that are wrong


def refusal(certificate: Path, key: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_tls(tls_section(certificate, key), time.time())
    return str(caught.value)


def test_files_that_are_missing_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("a")
    missing = tmp_path / "missing"
    assert refusal(missing, key) == (
        f"server.tls.certificate: {missing} cannot be read: No such file or directory"
    )
    assert refusal(certificate, missing) == (
        f"server.tls.key: {missing} cannot be read: No such file or directory"
    )


def test_a_key_that_may_not_be_read_is_named(authority: Authority) -> None:
    certificate, key = authority.issue("a")
    key.unlink()
    key.mkdir()
    assert refusal(certificate, key) == f"server.tls.key: {key} cannot be read: Is a directory"


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    certificate, _ = authority.issue("a")
    _, key = authority.issue("b")
    assert refusal(certificate, key) == (
        f"server.tls.key: {key} is not the key of the first certificate in {certificate}"
    )


def test_files_that_hold_something_else_are_refused(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("a")
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    nonsense.chmod(0o600)
    assert f"server.tls.certificate: {nonsense} is no certificate" in refusal(nonsense, key)
    assert f"server.tls.certificate: {key} is no certificate" in refusal(key, certificate)
    message = refusal(certificate, nonsense)
    assert message.startswith(f"server.tls: {certificate} and {nonsense} cannot be used: ")
    assert not message.endswith(": ")


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(authority: Authority) -> None:
    certificate, key = authority.issue("a", password=b"secret")
    assert f"server.tls.key: {key} is encrypted; write it without a password" in refusal(
        certificate, key
    )


@pytest.mark.expects_warnings
@pytest.mark.parametrize(
    ("begins", "ends", "said"), [(-2, -1, "has expired at"), (1, 2, "is valid from")]
)
def test_a_certificate_that_is_not_valid_now_is_warned_about(
    authority: Authority, caplog: pytest.LogCaptureFixture, begins: float, ends: float, said: str
) -> None:
    certificate, key = authority.issue("a", begins=begins, ends=ends)
    assert load_tls(tls_section(certificate, key), time.time()) is not None
    assert f"the certificate {certificate} {said}" in caplog.text


@pytest.mark.expects_warnings
@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o660, True)]
)
def test_a_key_that_others_may_read_or_change_is_warned_about(
    authority: Authority, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    certificate, key = authority.issue("a")
    key.chmod(mode)
    load_tls(tls_section(certificate, key), time.time())
    assert (f"{key} can be read or changed by others" in caplog.text) == warned


def test_a_start_that_is_refused_says_why_and_leaves_nothing(
    authority: Authority, tmp_path: Path
) -> None:
    certificate, _ = authority.issue("a")
    _, key = authority.issue("b")
    done = run(
        *("serve", "--port", "0"),
        cwd=tmp_path,
        GATEWAY_SERVER_TLS_CERTIFICATE=str(certificate),
        GATEWAY_SERVER_TLS_KEY=str(key),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == (
        f"server.tls.key: {key} is not the key of the first certificate in {certificate}"
    )
