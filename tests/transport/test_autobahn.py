"""Autobahn's cases for RFC 6455 on both websocket transports; compression is not offered."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kosoku
import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Cases that need permessage-deflate, and those that only measure speed.
LEFT_OUT = ["9.*", "12.*", "13.*"]
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}


@pytest.fixture(params=["picows", "tornado"])
def echo_port(request: pytest.FixtureRequest) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.transport.echo_server", request.param],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_every_case_of_autobahn_passes(echo_port: int) -> None:
    async def run() -> list[kosoku.CaseResult]:
        url = f"ws://127.0.0.1:{echo_port}/"
        try:
            return list(await kosoku.run_fuzzingclient(url, exclude_cases=LEFT_OUT, concurrency=8))
        except kosoku.FailureError as failure:
            return list(failure.results)

    results = asyncio.run(run())
    assert len(results) > 240
    failed = {
        result.case_id: (result.behavior.value, result.behavior_close.value)
        for result in results
        if result.behavior.value not in PASSED or result.behavior_close.value not in PASSED
    }
    assert failed == {}
