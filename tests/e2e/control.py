"""A gateway under the control of a test that is no Python."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.gateway_process import GatewayProcess, run


class Control:
    """Lets a test in another language stop and start gateways: POST to /kill and the like.

    That is the first one's; /kill-1 is the second one's, and so on.
    """

    def __init__(self, *gateways: GatewayProcess) -> None:
        actions: dict[str, Callable[[], object]] = {}
        for number, gateway in enumerate(gateways):
            for name, action in _actions(gateway).items():
                actions[f"/{name}-{number}"] = action
                actions.setdefault(f"/{name}", action)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                try:
                    actions[self.path]()
                except BaseException as error:
                    self._answer(500, repr(error))
                else:
                    self._answer(200, "ok")

            def _answer(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="control")
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _actions(gateway: GatewayProcess) -> dict[str, Callable[[], object]]:
    return {
        "start": gateway.start,
        "kill": gateway.kill,
        "terminate": gateway.terminate,
        "wait": gateway.wait,
        "backup": lambda: _run(gateway, "backup"),
        "restore": lambda: _run(gateway, "restore"),
    }


def _run(gateway: GatewayProcess, command: str) -> None:
    done = run(command, "--config", "gateway.yaml", "backup.db", cwd=gateway.cwd)
    assert done.returncode == 0, done.stderr
