"""A machine of its own whose PID 1 is systemd: this one's files under an overlay, no network.

It takes root, systemd-nspawn and nsenter. What changes in it lies in memory and goes with it.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.gateway_process import TIMEOUT, own_environment, program

#: For installing packages into it, in seconds.
_INSTALL_TIMEOUT: Final = 240.0
#: That of root on Debian: nothing of this machine's own environment.
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CLONE_NEWNET: Final = 0x40000000
#: Run in a mount namespace of its own, with the folder and the commands to prepare as arguments.
#: Units of this machine are not the test's business, so nothing but systemd's own is started.
_PREPARE: Final = r"""
set -e
mount -t tmpfs -o size=2g,mode=755 machine "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
root=$1/root
rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/system/gateway* \
    "$root"/opt/game-gateway "$root"/etc/game-gateway "$root"/var/lib/private/game-gateway* \
    "$root"/usr/local/bin/game-gateway "$root"/var/backups/game-gateway
rm -f "$root/etc/machine-id"
touch "$root/etc/machine-id"
mkdir -p "$root/srv/checkout"
mount --bind "$2" "$root/srv/checkout"
for folder in dev proc sys; do mount --rbind "/$folder" "$root/$folder"; done
chroot "$root" sh -ec "cd /srv/checkout; $3" >&2
for folder in dev proc sys; do umount -l "$root/$folder"; done
status=133 # with --keep-unit that is a reboot
while [ $status = 133 ]; do
    status=0
    systemd-nspawn --quiet --register=no --keep-unit --private-network --console=pipe \
        --directory "$root" --bind-ro "$2:/srv/checkout" --boot \
        systemd.unit=multi-user.target --show-status=no || status=$?
done
exit $status
"""
_HINT: Final = "the tests of the systemd units need root and a machine where systemd-nspawn works"


class Machine:
    """Boots when entered as a context manager.

    `checkout` is a folder that is seen as /srv/checkout, `prepare` shell commands that are run
    there before the boot, while there still is a network.
    """

    def __init__(self, folder: Path, checkout: Path, prepare: str) -> None:
        self._folder = folder
        self._checkout = checkout
        self._prepare = prepare
        self._log = folder.with_suffix(".log")
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0

    def __enter__(self) -> Machine:
        assert os.geteuid() == 0, f"{_HINT}: run them as root"
        self._folder.mkdir()
        arguments = [str(self._folder), str(self._checkout), self._prepare]
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(
                [
                    *(program("unshare"), "--mount", "--propagation", "private"),
                    *("sh", "-c", _PREPARE, "prepare", *arguments),
                ],
                # systemd-nspawn hands nothing of this to the machine.
                env=own_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._init = self._wait_for_init()
            self._wait_for_boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch it off, as by its power switch."""
        process, self._nspawn = self._nspawn, None
        if process is None:
            return
        with process:
            inits = self._inits(process)
            os.killpg(process.pid, signal.SIGKILL)
            for init in inits:
                # All other processes of the machine go with its first one.
                os.kill(init, signal.SIGKILL)

    def _wait_for_init(self) -> int:
        assert self._nspawn is not None
        deadline = time.monotonic() + _INSTALL_TIMEOUT
        while time.monotonic() < deadline:
            assert self._nspawn.poll() is None, f"{_HINT}:\n{self._log.read_text()}"
            for init in self._inits(self._nspawn):
                if init != self._init:
                    return init
            time.sleep(0.02)
        raise AssertionError(f"{_HINT}; no PID 1 came up:\n{self._log.read_text()}")

    def _inits(self, process: subprocess.Popen[bytes]) -> list[int]:
        nspawns = _children(process.pid, "systemd-nspawn")
        return [init for nspawn in nspawns for init in _children(nspawn, "systemd")]

    def _wait_for_boot(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        state = ""
        while time.monotonic() < deadline:
            state = self.try_run("systemctl is-system-running").stdout.strip()
            if state in {"running", "degraded"}:
                return
            time.sleep(0.05)
        raise AssertionError(f"{_HINT}; systemd is {state!r}:\n{self._log.read_text()}")

    def reboot(self) -> None:
        """Stop all services in order and boot again; the files stay."""
        self.run("systemctl --no-block reboot")
        self._init = self._wait_for_init()
        self._wait_for_boot()

    def try_run(self, script: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a shell script in it, in /srv/checkout; `text` is its standard input."""
        return subprocess.run(
            [
                *(program("nsenter"), "--target", str(self._init), "--all"),
                *("sh", "-ec", f"cd /srv/checkout; {script}"),
            ],
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": ""},
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT * 2,
            check=False,
        )

    def run(self, script: str, text: str = "") -> str:
        """Run a shell script in it that must succeed; return what it printed."""
        done = self.try_run(script, text)
        assert done.returncode == 0, f"{script}: {done.stdout}"
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """Write a file in it."""
        self.run(f"mkdir -p {shlex.quote(str(Path(path).parent))}; cat > {shlex.quote(path)}", text)

    @contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread opens meanwhile are inside of the machine."""
        with Path("/proc/thread-self/ns/net").open() as own:
            with Path(f"/proc/{self._init}/ns/net").open() as inside:
                _setns(inside.fileno())
            try:
                yield
            finally:
                _setns(own.fileno())


def _children(parent: int, name: str) -> list[int]:
    """Return the ids of a process' children of this name."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == f"{name}\n":
                found.append(int(child))
    return found


def _setns(descriptor: int) -> None:
    # os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
