"""The modules that mypyc compiles to C: the way that each message takes.

The same files run uncompiled, as they do from a source checkout. Modules with msgspec's
structs stay out: compiled classes lose the annotations that msgspec checks by. So do those
that derive from a class of an extension (picows), and those whose classes tests derive from.
"""

import os
import sys
import tempfile
from pathlib import Path

from setuptools import Extension  # first: it brings distutils to newer Pythons

from distutils.ccompiler import new_compiler  # isort: skip
from distutils.errors import CompileError  # isort: skip
from distutils.sysconfig import customize_compiler, get_python_inc  # isort: skip

MODULES = (
    "gateway/connection.py",
    "gateway/delivery.py",
    "gateway/engineio.py",
    "gateway/hot_events.py",
    "gateway/limits.py",
    "gateway/registry.py",
    "gateway/replay.py",
    "gateway/sink.py",
    "gateway/stores/memory_mailbox.py",
    "gateway/stores/memory_player.py",
    "gateway/stores/redis/batch.py",
    "gateway/stores/redis/bus.py",
    "gateway/stores/sqlite_answered.py",
    "gateway/stores/sqlite_copies.py",
    "gateway/stores/sqlite_ledger.py",
    "gateway/stores/sqlite_log.py",
    "gateway/stores/sqlite_player.py",
    "gateway/transport/engine.py",
    "gateway/transport/frames.py",
    "gateway/transport/socketio.py",
    "gateway/transport/stream.py",
    "gateway/transport/timers.py",
)

#: yes: fail if it cannot be done; no: leave it; anything else: where there is a C compiler.
VARIABLE = "GATEWAY_COMPILED"
#: What needs the extensions. Metadata and editable installs do not.
COMMANDS = {"bdist_wheel", "build_ext"}


def extensions(arguments: list[str]) -> list[Extension]:
    """Return the extensions to build for these arguments of setup.py."""
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted == "no" or not COMMANDS.intersection(arguments):
        return []
    if wanted != "yes" and not has_compiler():
        sys.stderr.write(
            "game-gateway: there is no C compiler with Python's headers (on Debian and Ubuntu: "
            "apt-get install gcc python3-dev), so nothing is compiled: all works, slower\n"
        )
        return []
    from mypyc.build import mypycify  # noqa: PLC0415 - it takes a second to load

    # A build has few of the libraries, or none: what is ignored for their sake may be unused.
    options = ["--config-file=setup.cfg", "--ignore-missing-imports", "--no-warn-unused-ignores"]
    built: list[Extension] = mypycify([*options, *MODULES])
    for extension in built:
        # Else all functions may be replaced from outside: none is inlined, and each call is
        # made through a table.
        extension.extra_compile_args.append("-fvisibility=hidden")
    return built


def has_compiler() -> bool:
    """Tell whether C that includes Python.h can be compiled here."""
    with tempfile.TemporaryDirectory(prefix="gateway-compiler-") as folder:
        source = Path(folder) / "probe.c"
        source.write_text("#include <Python.h>\n", encoding="utf-8")
        compiler = new_compiler()
        customize_compiler(compiler)
        compiler.add_include_dir(get_python_inc())
        try:
            compiler.compile([str(source)], output_dir=folder)
        except (CompileError, OSError):
            return False
    return True
