"""What tests of the client share: a real gateway in this process, where a test asks for it."""

from __future__ import annotations

import pytest

from tests.transport.conftest import (  # noqa: F401
    _quiet_log,
    base_url,
    clients,
    gateway,
    settings,
    websockets,
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "settings(**sections): change keys of the gateway's configuration"
    )
    config.addinivalue_line("markers", "expects_warnings: warnings in the log are no fault")
