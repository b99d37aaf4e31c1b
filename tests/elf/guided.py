"""The coverage-guided fuzzer: run by test_fuzz.py in an environment that has atheris. In: a corpus. Out: its status."""

import importlib
import sys
from typing import Any

atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["elfolio"]):
    import elfolio.elf.dynamic
    import elfolio.elf.linker
    import elfolio.elf.reader
    import elfolio.elf.symbols
    import elfolio.elf.versions  # noqa: F401

from tests.elf.fuzzing import exercise  # noqa: E402


def one_input(data: bytes) -> None:
    """Whatever is raised here ends the run, and is a finding."""
    exercise(data)


atheris.Setup(sys.argv, one_input)
atheris.Fuzz()
