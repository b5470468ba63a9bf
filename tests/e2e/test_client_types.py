"""The client module's types: the code keeps to them, they keep to the code, and games compile."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.conftest import NODE_TESTS
from tests.gateway_process import ROOT, own_environment

_SECONDS: Final = 120.0
_CLIENT: Final = Path("gateway/static/client")
_TYPES: Final = Path("tests/e2e/node/types")
_DECLARATIONS: Final = "gateway.d.ts"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the module, and beside the checks one that has no declarations."""
    for part in (_CLIENT, _TYPES):
        shutil.copytree(ROOT / part, tmp_path / part)
    implementation = tmp_path / _TYPES / "implementation"
    shutil.copytree(ROOT / _CLIENT, implementation)
    (implementation / _DECLARATIONS).unlink()
    declared = f'"../../../../../{_CLIENT / _DECLARATIONS}"'
    for module in implementation.glob("*.js"):
        module.write_text(module.read_text().replace(f'"./{_DECLARATIONS}"', declared))
    return tmp_path


def check(node: str, tree: Path, project: Path = _TYPES) -> list[str]:
    compiler = NODE_TESTS / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        [node, compiler, "--project", tree / project],
        env=own_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    complaints = done.stdout.splitlines()
    assert (done.returncode == 0) == (not complaints), done.stdout
    return complaints


def test_the_module_is_what_it_declares_and_a_game_in_typescript_compiles(
    node: str, tree: Path
) -> None:
    assert check(node, tree) == []


def test_a_game_that_imports_the_module_from_the_gateway_needs_one_file_and_one_line(
    node: str, tmp_path: Path
) -> None:
    """As README.md says; with a bundler that leaves `/client/gateway.js` alone, or without one."""
    line = re.search(r'`("paths": {.*})`', (ROOT / "README.md").read_text())
    assert line is not None
    shutil.copy(ROOT / _CLIENT / _DECLARATIONS, tmp_path)
    example = (ROOT / _TYPES / "example.ts").read_text()
    imported = '"../../../../gateway/static/client/gateway.js"'
    assert example.count(imported) == 1
    (tmp_path / "game.ts").write_text(example.replace(imported, '"/client/gateway.js"'))
    options = (
        '"strict": true, "noEmit": true, "target": "es2022", "module": "esnext", "types": [],'
        f' "moduleResolution": "bundler", {line[1]}'
    )
    (tmp_path / "tsconfig.json").write_text(f'{{"compilerOptions": {{{options}}}}}')
    assert check(node, tmp_path, Path()) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("gateway.js", "  get queued() {", "  get waiting() {", "conformance.ts"),
        ("gateway.js", "return this.#sender.size;", "return String(this.#sender.size);", "TS2322"),
        ("gateway.js", "return this.#session;", "return this.#sesion;", "gateway.js"),
        ("room.js", "  leave() {", "  quit() {", "conformance.ts"),
        (_DECLARATIONS, "export interface Gap {", "export interface Hole {", _DECLARATIONS),
    ],
)
def test_a_difference_is_found(
    node: str, tree: Path, file: str, old: str, new: str, complaint: str
) -> None:
    for directory in (tree / _CLIENT, tree / _TYPES / "implementation"):
        path = directory / file
        if path.exists():
            source = path.read_text()
            assert source.count(old) == 1
            path.write_text(source.replace(old, new))
    assert complaint in "\n".join(check(node, tree))


def test_everything_that_is_declared_is_explained() -> None:
    declarations = (ROOT / _CLIENT / _DECLARATIONS).read_text()
    body = declarations.partition("export interface Room {")[2]
    methods = re.findall(r"(.*)\n  (?!private)(\w+)(?:<[^\n]*?>)?\(", body)
    assert {name for _, name in methods} >= {"join", "publish", "volatile", "watch", "logout"}
    # Beside `on`, and the second of two ways to call something.
    known = {"once", "off"}
    for before, name in methods:
        if before.rstrip().endswith("*/") or name in before:
            known.add(name)
        assert name in known
