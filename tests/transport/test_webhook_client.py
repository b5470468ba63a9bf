"""Questions over real HTTP: what a backend may do to the gateway, and cannot."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from gateway.posting import PostFailed, Response
from gateway.transport.webhook_client import ClientLimits, WebhookClient
from tests.questioned_backend import QuestionedBackend, response

LIMITS = ClientLimits(15.0, 15.0, 4, 4096)

pytestmark = pytest.mark.gen_test(timeout=60)


@pytest.fixture
def backend(io_loop: IOLoop) -> Iterator[QuestionedBackend]:
    backend = QuestionedBackend()
    io_loop.run_sync(backend.start)
    yield backend
    io_loop.run_sync(backend.stop)


def client(url: str, *, connect: float = 15.0, answer_bytes: int = 4096) -> WebhookClient:
    return WebhookClient(url, ClientLimits(connect, 15.0, 4, answer_bytes), "")


async def ask(backend: QuestionedBackend, seconds: float = 15.0, **bounds: int) -> Response:
    asking = client(backend.url, **bounds)
    try:
        return await asking.post(b'{"a":1}', {"Content-Type": "application/json"}, seconds)
    finally:
        asking.close()


async def failure(backend: QuestionedBackend, seconds: float = 15.0, **bounds: int) -> str:
    with pytest.raises(PostFailed) as caught:
        await ask(backend, seconds, **bounds)
    return str(caught.value)


async def test_a_question_is_posted_as_json(backend: QuestionedBackend) -> None:
    backend.answer = lambda question: {"got": question}
    reply = await ask(backend)
    assert (reply.status, json.loads(reply.body), reply.retry_after) == (200, {"got": {"a": 1}}, 0)
    headers, body = backend.requests[0]
    assert body == b'{"a":1}'
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "game-gateway"
    assert "accept-encoding" not in headers


async def test_a_status_and_how_long_to_wait_are_told(backend: QuestionedBackend) -> None:
    backend.answer = lambda question: response(503, {"down": True}, "Retry-After: 7")
    reply = await ask(backend)
    assert (reply.status, json.loads(reply.body), reply.retry_after) == (503, {"down": True}, 7.0)
    backend.answer = lambda question: response(503, {}, "Retry-After: 99999999999999999999")
    assert (await ask(backend)).retry_after == 3600
    backend.answer = lambda question: response(503, {}, "Retry-After: Fri, 31 Dec 1999 23:59:59")
    assert (await ask(backend)).retry_after == 0


async def test_redirects_are_not_followed(backend: QuestionedBackend) -> None:
    backend.answer = lambda question: response(307, {}, f"Location: {backend.url}")
    assert (await ask(backend)).status == 307
    assert len(backend.questions) == 1


async def test_a_backend_that_is_down_is_a_failure(backend: QuestionedBackend) -> None:
    await backend.stop()
    assert "refused" in await failure(backend)


async def test_a_backend_that_does_not_answer_is_not_waited_for(backend: QuestionedBackend) -> None:
    backend.hang = True
    async with asyncio.timeout(15):
        assert "Timeout" in await failure(backend, 0.2)
    assert backend.hung == 1
    backend.release()


async def test_an_answer_byte_by_byte_has_no_more_time(backend: QuestionedBackend) -> None:
    backend.drip = 0.05
    async with asyncio.timeout(15):
        assert "Timeout" in await failure(backend, 0.5)


@pytest.mark.parametrize(
    "raw",
    [
        response(200, b"x" * 5000),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n" + b"x" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 100,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    ],
    ids=["length", "chunk", "chunks", "until the end", "head", "promised"],
)
async def test_a_huge_answer_is_not_read(backend: QuestionedBackend, raw: bytes) -> None:
    backend.answer = lambda question: raw
    async with asyncio.timeout(15):
        await failure(backend, answer_bytes=4096)


async def test_a_packed_answer_is_not_unpacked(backend: QuestionedBackend) -> None:
    backend.answer = lambda question: response(200, b"\x1f\x8b\x08", "Content-Encoding: gzip")
    assert (await ask(backend)).body == b"\x1f\x8b\x08"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"\x00\xff\xfe garbage\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ],
    ids=["nothing", "empty", "garbage", "status", "length", "cut off", "chunk", "header"],
)
async def test_garbage_is_a_failure(
    backend: QuestionedBackend, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    backend.answer = lambda question: raw
    async with asyncio.timeout(15):
        await failure(backend, 5.0)
    assert not [record for record in caplog.records if record.exc_info]


# TLS


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1 that only itself vouches for."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = "-subj /CN=backend -addext subjectAltName=IP:127.0.0.1"
    command = [*made.split(), *names.split(), "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return cert, key


@pytest.mark.expects_warnings
async def test_a_certificate_must_be_trusted(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    backend = QuestionedBackend(context)
    await backend.start()
    try:
        assert "certificate" in (await failure(backend)).lower()
        assert backend.questions == []
        trusting = WebhookClient(backend.url, LIMITS, str(cert))
        assert (await trusting.post(b"{}", {}, 15.0)).status == 200
        # The certificate is of the address, not of this name for it.
        named = backend.url.replace("127.0.0.1", "localhost")
        other = WebhookClient(named, LIMITS, str(cert))
        with pytest.raises(PostFailed):
            await other.post(b"{}", {}, 15.0)
        trusting.close()
        other.close()
    finally:
        await backend.stop()


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        WebhookClient("https://a.example", LIMITS, str(tmp_path / "none.pem"))
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(ssl.SSLError):
        WebhookClient("https://a.example", LIMITS, str(tmp_path / "empty.pem"))
