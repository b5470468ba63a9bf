"""Build backend: setuptools, plus the browser's Socket.IO client from npm.

A front end (pip, build) calls the PEP 517 and PEP 660 hooks below. Each hook that
produces something installable first puts the stock ``socket.io-client`` into
``gateway/static/vendor``, in the version that ``package-lock.json`` pins; npm
verifies the hashes recorded there. Source distributions carry the result, so
building from one needs no npm.
"""

import configparser
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from setuptools.command.egg_info import manifest_maker

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

PACKAGING = Path(__file__).resolve().parent
ROOT = PACKAGING.parent
VENDOR = ROOT / "gateway" / "static" / "vendor"

CLIENT = "socket.io-client"
MARKER = f"{CLIENT}.json"
LICENSE = f"{CLIENT}.LICENSE"
SCRIPTS = ("socket.io.esm.min.js", "socket.io.min.js")
# The scripts are bundles: these packages' code is inside, so their terms come along.
BUNDLED = (
    "engine.io-client",
    "engine.io-parser",
    "socket.io-parser",
    "@socket.io/component-emitter",
)
NPM_INPUTS = ("package.json", "package-lock.json", ".npmrc")
NPM_COMMAND = ("ci", "--ignore-scripts", "--no-audit", "--no-fund")
NPM_ERROR_LINES = 15

# Not an option of setuptools: the name is a class attribute. tests/packaging would
# notice a setuptools that no longer reads it, by files missing from the sdist.
manifest_maker.template = "packaging/MANIFEST.in"


# What compiles the modules of a wheel, and the variable that can say "no": see compiled.py.
COMPILER = "mypy>=1.15"
COMPILED = "GATEWAY_COMPILED"


class VendorError(SystemExit):
    """The client cannot be vendored. Ends the build with its message, without a traceback."""


def get_requires_for_build_wheel(config_settings=None):
    """Return what building a wheel needs besides, unless nothing is compiled.

    That is the compiler, and the libraries: it checks types, and needs theirs.
    """
    needed = build_meta.get_requires_for_build_wheel(config_settings)
    if os.environ.get(COMPILED) == "no":
        return needed
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return [*needed, COMPILER, *parser["options"]["install_requires"].split()]


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Vendor the client, then build a wheel."""
    vendor_client()
    # setuptools reuses this directory and would ship modules deleted since.
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory, config_settings=None):
    """Vendor the client, then build a source distribution."""
    vendor_client()
    return build_meta.build_sdist(sdist_directory, config_settings)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """Vendor the client, then build an editable wheel."""
    vendor_client()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def vendor_client() -> None:
    """Bring ``gateway/static/vendor`` to the locked version, if it is not there yet."""
    version = locked_version()
    if vendored_version() == version:
        return
    with tempfile.TemporaryDirectory(prefix="gateway-npm-") as project:
        modules = install_from_npm(Path(project), version)
        VENDOR.mkdir(parents=True, exist_ok=True)
        # Inside VENDOR, so that os.replace never crosses a file system.
        with tempfile.TemporaryDirectory(prefix=".new-", dir=VENDOR) as staging:
            stage_client(modules, Path(staging), version)
            publish(Path(staging))


def locked_version() -> str:
    """The version of the client that package-lock.json pins."""
    lock = json.loads((PACKAGING / "package-lock.json").read_text(encoding="utf-8"))
    return lock["packages"][f"node_modules/{CLIENT}"]["version"]


def vendored_version() -> str | None:
    """The version in place, or None when it is missing or incomplete."""
    if not all((VENDOR / name).is_file() for name in (*SCRIPTS, LICENSE)):
        return None
    try:
        return json.loads((VENDOR / MARKER).read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def install_from_npm(project: Path, version: str) -> Path:
    """Run ``npm ci`` on a copy of the lock file and return its node_modules."""
    npm = shutil.which("npm")
    if npm is None:
        raise VendorError(
            f"game-gateway: cannot build, because npm is not installed. Building from a source "
            f"checkout fetches {CLIENT} {version} with it, once. Install Node.js with npm "
            f"(on Debian and Ubuntu: apt-get install nodejs npm) and build again, or install "
            f"from a wheel or a source distribution, which contain it already."
        )
    for name in NPM_INPUTS:
        shutil.copyfile(PACKAGING / name, project / name)
    run = subprocess.run(
        [npm, *NPM_COMMAND],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if run.returncode != 0:
        said = "\n".join(f"  {line}" for line in run.stdout.splitlines()[-NPM_ERROR_LINES:])
        raise VendorError(
            f"game-gateway: cannot build, because 'npm {' '.join(NPM_COMMAND)}' failed (exit "
            f"status {run.returncode}) while fetching {CLIENT} {version}. Check that npm works "
            f"here and reaches its registry (npm ping), then build again; an integrity error "
            f"means that the registry sent something else than packaging/package-lock.json "
            f"expects. npm said:\n{said}"
        )
    return project / "node_modules"


def stage_client(modules: Path, staging: Path, version: str) -> None:
    """Collect the files to vendor in ``staging``."""
    for name in SCRIPTS:
        shutil.copyfile(modules / CLIENT / "dist" / name, staging / name)
    terms = [(modules / CLIENT / "LICENSE").read_text(encoding="utf-8").strip()]
    for package in BUNDLED:
        text = (modules / package / "LICENSE").read_text(encoding="utf-8").strip()
        terms.append(f"----\n\nContains {package}:\n\n{text}")
    (staging / LICENSE).write_text("\n\n".join(terms) + "\n", encoding="utf-8")
    (staging / MARKER).write_text(json.dumps({"version": version}) + "\n", encoding="utf-8")


def publish(staging: Path) -> None:
    """Move the staged files into place; the marker is absent until all others are there."""
    (VENDOR / MARKER).unlink(missing_ok=True)
    for name in (*SCRIPTS, LICENSE, MARKER):
        os.replace(staging / name, VENDOR / name)
