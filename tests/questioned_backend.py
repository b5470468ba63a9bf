"""A game's backend that is asked questions over real HTTP, and can fail in all ways."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable
from typing import Any

SECRET = "a secret of 32 characters or more"


def response(status: int, body: object, *headers: str) -> bytes:
    """Return an HTTP response with this JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} Because", f"Content-Length: {len(raw)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + raw


class QuestionedBackend:
    """Listens on a port of its own. `answer` returns an object, or bytes to be sent as they are.

    With `hang` a question is read and not answered until `release` is called.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._released = asyncio.Event()
        self.port = 0
        #: What was asked, decoded, in order, with the request's headers in lower case.
        self.questions: list[dict[str, Any]] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answer: Callable[[dict[str, Any]], object] = lambda question: {}
        self.hang = False
        #: Sent one byte after the other, with so many seconds between them.
        self.drip = 0.0
        self.hung = 0

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/ask?game=1"

    async def start(self) -> None:
        """Listen, on the port from before."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        self._released = asyncio.Event()
        self._server = await asyncio.start_server(self._serve, sock=listening, ssl=self._tls)

    async def stop(self) -> None:
        """Be down: nobody listens, and what hangs is cut off."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def release(self) -> None:
        """Answer what hangs, and hang no more."""
        self.hang = False
        self._released.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        except asyncio.CancelledError:
            # By `stop`, which waits; asyncio's streams would log it.
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *lines = head.strip().split("\r\n")
        assert line == "POST /ask?game=1 HTTP/1.1"
        headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        question = json.loads(body)
        self.requests.append((headers, body))
        self.questions.append(question)
        if self.hang:
            self.hung += 1
            await self._released.wait()
        answer = self.answer(question)
        raw = answer if isinstance(answer, bytes) else response(200, answer)
        if not self.drip:
            writer.write(raw)
            await writer.drain()
            return
        for byte in raw:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(self.drip)
