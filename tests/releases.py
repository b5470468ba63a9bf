"""Two releases to install: this one, and a next one that changes the store's format."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.gateway_process import ROOT, TIMEOUT, own_environment

_SOURCES: Final = (
    *("gateway", "packaging", "systemd", "pyproject.toml", "setup.cfg", "setup.py"),
    *("README.md", "LICENSE", "Makefile"),
)


def two_releases(folder: Path, make_wheels: str) -> Path:
    """Return a checkout with wheels of 0.1.0 in build/wheels and of 0.2.0 in build/next.

    `make_wheels` is the shell command that makes the first; it needs a network.
    """
    # The wheels are for every machine: compiling takes long, and is tested elsewhere.
    environment = own_environment(GATEWAY_COMPILED="no")
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in _SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
        else:
            shutil.copyfile(ROOT / name, checkout / name)
    following = folder / "next"
    shutil.copytree(checkout, following)
    subprocess.run(
        ["sh", "-ec", make_wheels],
        cwd=checkout,
        env=environment,
        timeout=10 * TIMEOUT,
        check=True,
    )
    migration = 'lambda connection: connection.execute("CREATE TABLE novelty (x)")'
    schema = following / "gateway" / "stores" / "sqlite_schema.py"
    newest = "    _add_bundles,\n"
    _replace(schema, f"{newest})\n", f"{newest}    {migration},\n)\n")
    _replace(following / "setup.cfg", "version = 0.1.0\n", "version = 0.2.0\n")
    wheels = checkout / "build" / "next"
    ignored = shutil.ignore_patterns("game_gateway-*")
    shutil.copytree(checkout / "build" / "wheels", wheels, ignore=ignored)
    python = checkout / "build" / "wheels-venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, following],
        env=environment,
        timeout=10 * TIMEOUT,
        check=True,
    )
    return checkout


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
