"""tests.lab.ksm_inside: same-page merging, in a lab machine. In: an image, a number of workers. Out: one JSON object.

The programs lie in the image, an ext4 file system, and are recorded with PR_SET_MEMORY_MERGE and without; what the
records say is for the host to judge. Workers come last: ksmd has looked at nothing else by then.
"""

import json
import subprocess
import sys
from pathlib import Path

from bench import ksm

ROOT = Path("/tmp/root")
PROGRAMS = {
    "python, 10 modules": ["/usr/bin/python3", "-c", ksm.IMPORTS],
    "gcc": ["/usr/bin/gcc", "-O2", "-o", "/tmp/x", "/tmp/x.c"],
}
_SECONDS = 300
"""An emulated ksmd is slow."""


def mounted(image: str) -> Path:
    """The image's root directory, with what its programs need of a running system."""
    ROOT.mkdir()
    for kind, source, place in (
        ("ext4", image, ROOT),
        ("proc", "proc", ROOT / "proc"),
        ("devtmpfs", "devtmpfs", ROOT / "dev"),
        ("tmpfs", "tmpfs", ROOT / "tmp"),
    ):
        options = ["-o", "loop,ro"] if kind == "ext4" else []
        subprocess.run(["mount", "-t", kind, *options, source, place], check=True)
    (ROOT / "tmp/x.c").write_text(ksm.SOURCE)
    return ROOT


def main() -> None:
    """Says what each program did, and what workers saved."""
    image, workers = sys.argv[1:]
    root = mounted(image)
    records = {}
    for name, words in PROGRAMS.items():
        folder = Path("/tmp/records") / name
        folder.mkdir(parents=True)
        paths = ksm.recorded(words, folder, str(root))
        records[name] = [path.read_text(errors="surrogateescape") for path in paths]
    shared = {
        name: ksm.workers(int(workers), fixed=fixed, seconds=_SECONDS)
        for name, fixed in (("addresses randomised", False), ("the same addresses", True))
    }
    json.dump({"records": records, "shared": shared}, sys.stdout)


if __name__ == "__main__":
    main()
