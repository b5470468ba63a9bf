"""Runs files of the Node tests, each in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping

from tests.e2e.conftest import NODE_TESTS


def run_node_tests(
    node: str, file: str, environment: Mapping[str, str], seconds: float
) -> tuple[bool, str]:
    """Run one file; return whether all is well, and what it printed."""
    process = subprocess.Popen(
        [node, "--test", "--test-reporter=spec", file],
        cwd=NODE_TESTS,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            output = f"{(error.stdout or b'').decode()}\nno end after {seconds} s"
        finally:
            if process.poll() is None:
                # The runner and the file's own process are a group of their own.
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode == 0, output
