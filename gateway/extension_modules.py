"""Finds the modules that `extensions` names: in a folder of the operator's, else installed."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from gateway.errors import ConfigError

Setup = Callable[[Any], object]
#: Modules of the folder are kept under it, so that none takes the place of another module.
_PARENT: Final = "gateway_extensions"


class ExtensionError(ConfigError):
    """An extension cannot be used; the text names its module and what is wrong."""

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(f"extensions: {module}: {reason}")


def load_modules(names: Sequence[str], folder: str) -> list[tuple[str, Setup]]:
    """Import the modules and return their `setup` functions. Raises ExtensionError.

    With `folder`, a module is looked for there first.
    """
    if folder and not Path(folder).is_dir():
        raise ConfigError(f"extensions_path: there is no directory {folder}")
    found = []
    for name in names:
        with faults_of(name, "cannot be imported"):
            module = _import(name, folder)
        setup = getattr(module, "setup", None)
        if not callable(setup):
            raise ExtensionError(name, "has no function setup(gateway)")
        found.append((name, setup))
    return found


def _import(name: str, folder: str) -> ModuleType:
    if not folder or "." in name:
        return importlib.import_module(name)
    own = f"{_PARENT}.{name}"
    spec = PathFinder.find_spec(own, [folder])
    if spec is None or spec.loader is None:
        return importlib.import_module(name)
    module = sys.modules[own] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[own]
        raise
    return module


@contextmanager
def faults_of(module: str, what: str) -> Iterator[None]:
    """Turn whatever an extension raises at the start into an ExtensionError that says where."""
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = next((each for each in reversed(frames) if "importlib" not in each.filename), None)
        place = f" ({last.filename}:{last.lineno})" if last is not None else ""
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ExtensionError(module, f"{what}: {text}{place}") from error
