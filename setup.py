"""What setup.cfg cannot say: the extension modules, see packaging/compiled.py."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "packaging"))

from compiled import extensions

setup(ext_modules=extensions(sys.argv))
