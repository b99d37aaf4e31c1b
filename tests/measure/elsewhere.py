"""Run under another kernel: programs and odd programs held there against its model. Out: JSON on stdout."""

import json
import os
import sys
from pathlib import Path
from tempfile import mkdtemp

from elfolio.elf.reader import read
from elfolio.errors import ElfError
from elfolio.measure.verify import verify
from tests.measure.odd import odd_program, write_program


def main(odd: int, programs: list[str]) -> None:
    """Prints {"release", "first": [equal, all], "objects": [equal, all], "misses": [...]}."""
    where = Path(mkdtemp())
    first, objects = [0, 0], [0, 0]
    misses: list[str] = []
    made = [(write_program(where / f"odd-{seed}", odd_program(seed)), False) for seed in range(odd)]
    for path, linking in [*made, *((path, True) for path in programs)]:
        try:
            read(Path(path).read_bytes())
        except ElfError:
            continue
        found = verify(path, linking=linking)
        first[0] += found.first.equal
        first[1] += 1
        objects[0] += sum(comparison.equal for comparison in found.objects)
        objects[1] += len(found.objects)
        outcome = [str(side) for side in (found.predicted, found.real) if isinstance(side, OSError)]
        misses += [f"{path}: {' | '.join(outcome)} {difference}" for difference in found.differences[:6]]
    json.dump({"release": os.uname().release, "first": first, "objects": objects, "misses": misses}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
