"""tests.lab.warm: warm templates on another machine, to be run on it. Out: one JSON object.

A program of its own, without pytest: what is equal and what should be is for the tests to judge. Beside it lies what
tests.lab.foreign has built.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import elfolio
from tests.spawn.mirroring import answer_of
from tests.spawn.staging import compare

PROGRAMS = {
    "/bin/true": ["true"],
    "/bin/ls": ["ls", "/usr"],
    "/bin/bash": ["bash", "-c", 'echo "$0" "$LANG"; (exit 5); exit 3'],
    "/usr/bin/env": ["env"],
    "/usr/bin/python3": ["python3", "-c", "import os, sys; print(sys.argv, len(os.environ))", "x"],
}


def programs() -> dict[str, dict[str, object]]:
    """For each program, status and output of a normal start, and temperature, status and output of three warm ones."""
    seen: dict[str, dict[str, object]] = {}
    for path, argv in PROGRAMS.items():
        normal = subprocess.run(argv, executable=path, stdout=subprocess.PIPE, text=True, check=False)
        starts = []
        with elfolio.SpawnTemplate(path, temperature="warm") as template:
            for _ in range(3):
                with template.spawn(argv, stdout=elfolio.PIPE) as child:
                    output = child.stdout.read().decode() if child.stdout is not None else ""
                    starts.append([child.temperature, child.wait(), output])
        seen[path] = {"normal": [normal.returncode, normal.stdout], "warm": starts}
    return seen


def mirrored(folder: Path, examples: int) -> dict[str, object]:
    """What tests.spawn.staging counts of random spawns, done cold and warm."""
    place = folder / "mirror"
    shutil.copytree(Path(__file__).resolve().parent.parent.parent / "mirror", place)
    answer_of(place / "mirror").chmod(0o666)
    return compare(str(place / "mirror"), "warm", examples)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        print(
            json.dumps(
                {
                    "machine": os.uname().machine,
                    "page": os.sysconf("SC_PAGESIZE"),
                    "programs": programs(),
                    "mirrored": mirrored(Path(name), int(sys.argv[1])),
                }
            )
        )
