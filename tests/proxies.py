"""The reverse proxies of the examples in config/, as real processes in front of gateways."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.certificates import Authority
from tests.gateway_process import ROOT, TIMEOUT, own_environment
from tests.transport.client import Clients

SOCKET: Final = "/run/game-gateway/gateway.sock"
PROXIES: Final = ("nginx", "caddy")


def program(name: str) -> str:
    """Return the path of a server, also where only root has it on the search path."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert path is not None, f"{name} is not installed: `make test` installs it"
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def replaced(file: str, changes: Mapping[str, str]) -> str:
    """Return a file of config/ with each of these texts, which must be there, replaced."""
    text = (ROOT / "config" / file).read_text()
    for old, new in changes.items():
        assert old in text, f"config/{file} has no {old!r}"
        text = text.replace(old, new)
    return text


class Proxy:
    """A proxy as a process of its own, on free ports, with its files in `folder`.

    `upstreams` are the gateways behind it: HOST:PORT or unix:PATH.
    """

    def __init__(self, folder: Path, name: str, *upstreams: str) -> None:
        self.port, self.plain_port = free_port(), free_port()
        self.authority = Authority(folder)
        certificate, key = self.authority.issue("proxy")
        write = _write_nginx if name == "nginx" else _write_caddy
        command = write(folder, self.port, self.plain_port, certificate, key, upstreams)
        self._log = folder / "proxy.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=own_environment(HOME=str(folder), XDG_DATA_HOME=str(folder)),
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    self.stop()
                    raise AssertionError(self._log.read_text()) from None
                time.sleep(0.02)
            else:
                return

    def clients(self, source: str = "") -> Clients:
        """Return clients of the proxy that have the address `source`."""
        url = f"https://localhost:{self.port}"
        return Clients(url, ca_file=str(self.authority.ca_file), source=source)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()


def _write_nginx(
    folder: Path, port: int, plain_port: int, certificate: Path, key: Path, upstreams: Sequence[str]
) -> list[str]:
    site = replaced(
        "nginx.conf",
        {
            "listen 80;": f"listen 127.0.0.1:{plain_port};",
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "server_name game.example;": "server_name localhost;",
            "/etc/ssl/game.example/fullchain.pem": str(certificate),
            "/etc/ssl/game.example/privkey.pem": str(key),
            f"server unix:{SOCKET};": "\n    ".join(f"server {each};" for each in upstreams),
        },
    )
    (folder / "site.conf").write_text(site)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; worker_processes 1; error_log stderr;"
        "events {} http { access_log off;"
        f"{temporary} include {folder}/site.conf; }}"
    )
    # Workers of root's would be nobody's, who may not reach the folder.
    user = ["-g", "user root;"] if os.geteuid() == 0 else []
    return [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), *user]


def _write_caddy(
    folder: Path, port: int, plain_port: int, certificate: Path, key: Path, upstreams: Sequence[str]
) -> list[str]:
    addresses = " ".join(each.replace("unix:", "unix/") for each in upstreams)
    text = replaced(
        "Caddyfile",
        {
            "{\n\tservers {": f"{{\n\tadmin off\n\thttp_port {plain_port}\n\tservers {{",
            "game.example {": f"https://localhost:{port} {{\n\ttls {certificate} {key}",
            f"unix/{SOCKET}": addresses,
        },
    )
    if len(upstreams) > 1:
        for line in ("lb_policy round_robin", "lb_try_duration 5s", "fail_duration 5s"):
            assert f"# {line}\n" in text
            text = text.replace(f"# {line}\n", f"{line}\n")
    (folder / "Caddyfile").write_text(text)
    command = ["run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    return [program("caddy"), *command]
