"""Programs for warm templates, and a look at the processes behind one. Holds no tests."""

import os
import subprocess
import time
from pathlib import Path

import elfolio
from tests.conftest import every_child

_CONTROL = 58  # enum warm_fd (native/warm/protocol.h)
_SETTLED = 0.1
"""Seconds after which a file counts as not being changed just now."""

ECHO = """
#include <stdlib.h>
int main(int argc, char **argv) { return argc > 1 ? atoi(argv[1]) : 99; }
"""
"""Ends with the status that its argument says."""

VERSIONED = """
#include <stdio.h>
int version_at_start(void);
int version(void);
int main(void) { printf("program %d, started %d, called %d\\n", PROGRAM, version_at_start(), version()); return 0; }
"""
_LIBRARY = """
static int started;
__attribute__((constructor)) static void start(void) { started = VERSION; }
int version_at_start(void) { return started; }
int version(void) { return VERSION; }
"""


def compile_dynamic(out: Path, source: str, *flags: str) -> Path:
    """Compiles a program or library for the dynamic linker, and puts it into place by a rename, as packages do."""
    new = out.with_name(out.name + ".new")
    command = ["gcc", "-O1", "-Wall", "-x", "c", "-", "-o", str(new), *flags]
    subprocess.run(command, input=source, text=True, check=True)
    new.rename(out)
    return out


class Package:
    """A program and its library, each in a folder of its own, that can be upgraded."""

    def __init__(self, folder: Path) -> None:
        self.library = folder / "lib" / "libversion.so"
        self.program = folder / "bin" / "program"
        for path in (self.library, self.program):
            path.parent.mkdir(parents=True)
        self.upgrade_library(1)
        self.upgrade_program(1)
        time.sleep(_SETTLED)

    def upgrade_library(self, version: int) -> None:
        """Another file in the library's place."""
        compile_dynamic(self.library, _LIBRARY, "-shared", "-fPIC", f"-DVERSION={version}")

    def upgrade_program(self, version: int) -> None:
        """Another file in the program's place."""
        where = str(self.library.parent)
        flags = (f"-DPROGRAM={version}", f"-L{where}", "-lversion", f"-Wl,-rpath,{where}")
        compile_dynamic(self.program, VERSIONED, *flags)


def said(template: elfolio.SpawnTemplate) -> str:
    """What a versioned program says."""
    done = template.run(["program"], text=True)
    assert done.returncode == 0
    return str(done.stdout).strip()


def temperature_of(template: elfolio.SpawnTemplate, *argv: str) -> str:
    """Of one start, which must end with 0."""
    child = template.spawn(["program", *argv], stdout=elfolio.DEVNULL)
    assert child.wait() == 0
    return child.temperature


def standing(template: elfolio.SpawnTemplate) -> tuple[int, list[int]]:
    """The process behind a warm template, and the children that stand by."""
    warm = template._heat.warm
    assert warm is not None
    pid = warm.facts()[0]
    return pid, [child for child in every_child() if child != pid and _control(child) == _control(pid)]


def await_standing(template: elfolio.SpawnTemplate, count: int = 2) -> tuple[int, list[int]]:
    """The same, once so many children stand by."""
    deadline = time.monotonic() + 10
    while len(standing(template)[1]) < count:
        assert time.monotonic() < deadline, "no child stands by"
        time.sleep(0.005)
    return standing(template)


def _control(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{_CONTROL}")
    except OSError:
        return f"none of {pid}"
