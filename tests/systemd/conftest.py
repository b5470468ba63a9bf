"""A machine with the gateway in it, installed as systemd/README.md says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.gateway_process import ROOT, TIMEOUT, own_environment
from tests.systemd.machine import Machine

_SOURCES = (
    "gateway",
    "packaging",
    "systemd",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
    "README.md",
    "LICENSE",
)


@pytest.fixture(scope="session")
def page() -> list[str]:
    """The shell commands of systemd/README.md, block by block."""
    text = (ROOT / "systemd" / "README.md").read_text()
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory, page: list[str]) -> Iterator[Machine]:
    """A machine that has booted after the page's first block, which needs a network."""
    folder = tmp_path_factory.mktemp("systemd")
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in _SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
        else:
            shutil.copyfile(ROOT / name, checkout / name)
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", ".", "."]
    # The machine has another Python.
    environment = own_environment(GATEWAY_COMPILED="no")
    subprocess.run(wheel, cwd=checkout, env=environment, timeout=10 * TIMEOUT, check=True)
    with Machine(folder / "machine", checkout, page[0]) as machine:
        machine.run(page[1])
        yield machine
