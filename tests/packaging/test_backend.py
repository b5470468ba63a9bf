"""The build: which files it vendors, what wheels and source distributions hold, how it fails."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "gateway",
    "packaging",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
    "README.md",
    "LICENSE",
)
CLIENT_LOCKS = ("packaging/package-lock.json", "tests/e2e/node/package-lock.json")
LOCKS = (*CLIENT_LOCKS, "tests/bench/peers/package-lock.json")
VENDORED = {
    "socket.io-client.LICENSE",
    "socket.io-client.json",
    "socket.io.esm.min.js",
    "socket.io.min.js",
}


def load_packaging(root, name):
    """A module of the build of the tree at `root`."""
    spec = importlib.util.spec_from_file_location(name, root / "packaging" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_backend(root):
    """The backend of the tree at `root`, as a front end would import it."""
    return load_packaging(root, "backend")


def build(root, hook, target, compiled="no"):
    """Run a hook of the tree at `root` in a process of its own, as front ends do."""
    target.mkdir()
    program = f"import sys, backend; backend.{hook}(sys.argv[1])"
    return subprocess.run(
        [sys.executable, "-c", program, str(target)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "packaging"), "GATEWAY_COMPILED": compiled},
        capture_output=True,
        text=True,
        check=False,
    )


def copy_sources(target, *, with_client):
    target.mkdir()
    ignored = ["__pycache__"] if with_client else ["__pycache__", "vendor"]
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns(*ignored))
        else:
            shutil.copyfile(ROOT / name, target / name)
    return target


def locked_client():
    lock = json.loads((ROOT / "packaging/package-lock.json").read_text())
    return lock["packages"]["node_modules/socket.io-client"]["version"]


@pytest.fixture(scope="module")
def built_tree(tmp_path_factory):
    """A tree that had no client when its wheel was built."""
    root = copy_sources(tmp_path_factory.mktemp("build") / "tree", with_client=False)
    done = build(root, "build_wheel", root / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture
def tree(tmp_path):
    return copy_sources(tmp_path / "tree", with_client=False)


@pytest.fixture
def without_npm(monkeypatch, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))


@pytest.fixture
def failing_npm(monkeypatch, tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    npm = programs / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code EINTEGRITY' >&2\nexit 7\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_has_a_hash_for_every_package_and_names_no_registry(lock):
    packages = json.loads((ROOT / lock).read_text())["packages"]
    packages.pop("")
    assert packages
    assert [name for name, entry in packages.items() if "integrity" not in entry] == []
    assert [name for name, entry in packages.items() if "resolved" in entry] == []
    for entry in packages.values():
        entry.pop("funding", None)  # where an author asks for money
    assert "://" not in json.dumps(packages)


def test_browser_and_node_tests_have_the_same_pinned_client():
    for lock in CLIENT_LOCKS:
        packages = json.loads((ROOT / lock).read_text())["packages"]
        pinned = packages[""]["dependencies"]["socket.io-client"]
        assert re.fullmatch(r"4\.\d+\.\d+", pinned)
        assert pinned == packages["node_modules/socket.io-client"]["version"] == locked_client()


def test_installed_client_is_the_locked_one():
    marker = ROOT / "gateway/static/vendor/socket.io-client.json"
    assert json.loads(marker.read_text()) == {"version": locked_client()}


def test_vendored_scripts_are_complete_and_of_the_locked_version(built_tree):
    vendor = built_tree / "gateway/static/vendor"
    assert {path.name for path in vendor.iterdir()} == VENDORED
    for name in ("socket.io.esm.min.js", "socket.io.min.js"):
        assert f"Socket.IO v{locked_client()}" in (vendor / name).read_text()[:200]


def test_wheel_holds_the_client_and_all_licences(built_tree):
    (wheel,) = (built_tree / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        licence = archive.read("gateway/static/vendor/socket.io-client.LICENSE").decode()
        metadata = archive.read("game_gateway-0.1.0.dist-info/METADATA").decode()
    assert {f"gateway/static/vendor/{name}" for name in VENDORED} <= names
    assert {"gateway/py.typed", "game_gateway-0.1.0.dist-info/licenses/LICENSE"} <= names
    assert not [name for name in names if name.startswith(("tests", "packaging"))]
    assert "Guillermo Rauch" in licence
    assert "Component contributors" in licence
    assert "License-Expression: MIT\n" in metadata


def test_wheel_holds_no_module_deleted_since_the_last_build(tree):
    client = ROOT / "gateway/static/vendor"
    shutil.copytree(client, tree / "gateway/static/vendor")
    stale = tree / "build/lib/gateway/deleted.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    done = build(tree, "build_wheel", tree / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tree / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "gateway/deleted.py" not in archive.namelist()


def test_wheel_has_compiled_modules_that_are_used(built_tree, tmp_path):
    root = tmp_path / "tree"
    shutil.copytree(built_tree, root)
    done = build(root, "build_wheel", tmp_path / "wheel", compiled="yes")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    assert not wheel.name.endswith("-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    names = load_packaging(root, "compiled").MODULES
    modules = [name.removesuffix(".py").replace("/", ".") for name in names]
    assert modules
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: print(importlib.import_module(name).__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *modules],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    files = done.stdout.split()
    assert len(files) == len(modules)
    for file in files:
        assert file.startswith(str(tmp_path / "installed"))
        assert file.endswith(".so")


def test_wheel_that_is_not_compiled_is_for_every_machine(built_tree):
    (wheel,) = (built_tree / "out").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]


def test_a_machine_without_a_compiler_builds_all_the_same(built_tree, tmp_path, monkeypatch):
    root = tmp_path / "tree"
    shutil.copytree(built_tree, root)
    monkeypatch.setenv("CC", str(tmp_path / "no-such-compiler"))
    done = build(root, "build_wheel", tmp_path / "wheel", compiled="auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "there is no C compiler" in done.stderr
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")


def test_source_distribution_builds_where_there_is_no_npm(built_tree, tmp_path, without_npm):
    done = build(built_tree, "build_sdist", tmp_path / "sdist")
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = (tmp_path / "sdist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        # The first 3.11 releases have no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(tmp_path / "unpacked")
    (root,) = (tmp_path / "unpacked").iterdir()
    # The last is what a setuptools without our manifest template would leave out.
    assert (root / "gateway/static/vendor/socket.io.min.js").is_file()
    assert (root / "packaging/package-lock.json").is_file()
    done = build(root, "build_wheel", tmp_path / "wheel")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("without_npm")
@pytest.mark.parametrize("hook", ["build_wheel", "build_sdist", "build_editable"])
def test_missing_npm_is_one_paragraph_of_advice(tree, hook):
    done = build(tree, hook, tree / "out")
    assert done.returncode == 1
    (advice,) = done.stderr.splitlines()
    assert "npm is not installed" in advice
    assert "apt-get install nodejs npm" in advice


@pytest.mark.usefixtures("failing_npm")
def test_failing_npm_is_quoted_and_leaves_nothing_behind(tree):
    done = build(tree, "build_wheel", tree / "out")
    assert done.returncode == 1
    assert "exit status 7" in done.stderr
    assert "npm error code EINTEGRITY" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tree / "gateway/static/vendor").exists()


@pytest.mark.usefixtures("without_npm")
@pytest.mark.parametrize("name", sorted(VENDORED))
def test_incomplete_client_is_not_taken_for_vendored(built_tree, tmp_path, name):
    root = tmp_path / "tree"
    shutil.copytree(built_tree, root)
    backend = load_backend(root)
    backend.vendor_client()
    (root / "gateway/static/vendor" / name).unlink()
    with pytest.raises(backend.VendorError, match="npm is not installed"):
        backend.vendor_client()


@pytest.mark.usefixtures("without_npm")
@pytest.mark.parametrize("marker", ['{"version": "4.0.0"}', "{}", "[]", ""])
def test_other_or_unreadable_marker_is_not_taken_for_vendored(built_tree, tmp_path, marker):
    root = tmp_path / "tree"
    shutil.copytree(built_tree, root)
    backend = load_backend(root)
    (root / "gateway/static/vendor/socket.io-client.json").write_text(marker)
    with pytest.raises(backend.VendorError, match="npm is not installed"):
        backend.vendor_client()


def test_interrupted_publish_leaves_no_marker(built_tree, tmp_path, monkeypatch):
    root = tmp_path / "tree"
    shutil.copytree(built_tree, root)
    backend = load_backend(root)
    vendor = root / "gateway/static/vendor"
    staging = tmp_path / "staging"
    shutil.copytree(vendor, staging)
    (staging / "socket.io.min.js").unlink()
    with pytest.raises(FileNotFoundError):
        backend.publish(staging)
    assert backend.vendored_version() is None
