"""A gateway under the control of a test that is no Python."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.gateway_process import GatewayProcess, run


class Control:
    """Lets a test in another language stop and start the gateway: POST to /kill and the like."""

    def __init__(self, gateway: GatewayProcess) -> None:
        actions = {
            "/start": gateway.start,
            "/kill": gateway.kill,
            "/terminate": gateway.terminate,
            "/wait": gateway.wait,
            "/backup": lambda: _run(gateway, "backup"),
            "/restore": lambda: _run(gateway, "restore"),
        }

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


def _run(gateway: GatewayProcess, command: str) -> None:
    done = run(command, "--config", "gateway.yaml", "backup.db", cwd=gateway.cwd)
    assert done.returncode == 0, done.stderr
