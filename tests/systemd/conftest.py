"""A machine with the gateway in it, installed as systemd/README.md says."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.gateway_process import ROOT
from tests.releases import two_releases
from tests.systemd.machine import Machine


@pytest.fixture(scope="session")
def page() -> list[str]:
    """The shell commands of systemd/README.md, block by block."""
    text = (ROOT / "systemd" / "README.md").read_text()
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory, page: list[str]) -> Iterator[Machine]:
    """A machine with the gateway in it. The page's first block is run outside, the second before
    the boot: these need a network.
    """
    folder = tmp_path_factory.mktemp("systemd")
    checkout = two_releases(folder, page[0])
    with Machine(folder / "machine", checkout, page[1]) as machine:
        machine.run(page[2])
        yield machine
