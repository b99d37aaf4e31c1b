"""Warm templates and memory cgroups: whoever is killed for want of memory, starts are right and go on."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import elfolio
from tests.spawn.kindling import ECHO, await_standing, compile_dynamic, temperature_of
from tests.spawn.probing import SANITIZED, children, in_fresh_host

pytestmark = pytest.mark.root

_BOUND = 5.0
"""Seconds within which a start has fallen back to a cold one."""
_LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Of cgroup v2 and of v1."""
_HOG = """
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv)
{
    size_t size = (size_t)atoi(argv[1]) << 20;
    char *memory = malloc(size);
    memset(memory, 1, size);
    return memory[size - 1] + 1;
}
"""


class Group:
    """A memory cgroup."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.limit_file = next(folder / name for name in _LIMITS if (folder / name).exists())

    def limit(self, size: int) -> None:
        """Bytes, no swap beside them."""
        for name in ("memory.swap.max", "memory.swappiness"):
            with suppress(OSError):
                (self.folder / name).write_text("0")
        self.limit_file.write_text(str(size))

    def put(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        """How often the kernel has killed a process of it."""
        for name in ("memory.events", "memory.oom_control"):
            with suppress(FileNotFoundError):
                words = (self.folder / name).read_text().split()
                return int(words[words.index("oom_kill") + 1])
        raise AssertionError("the kernel does not count")


def roots() -> Iterator[Path]:
    """Where memory cgroups can be made."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        control = Path(where, "cgroup.subtree_control")
        if kind == "cgroup2" and control.exists() and "memory" in control.read_text().split():
            yield Path(where)
        if kind == "cgroup" and "memory" in options.split(","):
            yield Path(where)


@pytest.fixture
def group() -> Iterator[Group]:
    """An empty one, gone afterwards."""
    for root in roots():
        folder = root / f"elfolio-test-{os.getpid()}"
        with suppress(OSError):
            folder.mkdir()
            break
    else:
        pytest.skip("needs a memory cgroup; to force: run as root with the memory controller mounted and enabled")
    yield Group(folder)
    deadline = time.monotonic() + 10
    while folder.exists():  # busy for a moment after its last process's end
        assert time.monotonic() < deadline
        with suppress(OSError):
            folder.rmdir()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def echo(programs: Path) -> Path:
    """A program that ends with the status that its argument says, linked dynamically."""
    return compile_dynamic(programs / "hungry-echo", ECHO)


@pytest.mark.parametrize("size", [0, 16 << 10, 256 << 10])
@pytest.mark.parametrize("whom", ["process", "standbys", "all"])
def test_what_stands_ready_has_no_memory(group: Group, echo: Path, whom: str, size: int) -> None:
    """The template's process, its children or both in a cgroup without memory: every start ends with its own status,
    or was warm and is killed by the kernel as its program may be; none takes longer than its bound; and soon starts
    are warm again."""
    group.limit(size)
    with elfolio.SpawnTemplate(echo, temperature="warm") as template:
        assert template.spawn(["echo", "0"]).wait() == 0
        process, standbys = await_standing(template)
        for pid in {"process": [process], "standbys": standbys, "all": [process, *standbys]}[whom]:
            group.put(pid)
        for wanted in range(60):
            began = time.monotonic()
            child = template.spawn(["echo", str(wanted)])
            assert time.monotonic() - began < _BOUND
            killed = child.wait() == -signal.SIGKILL and child.temperature == "warm" and wanted < 12
            assert killed or child.returncode == wanted
        assert temperature_of(template, "0") == "warm"
        kills = group.kills
    assert children() == []
    assert kills > 0 or size > 0


def hungry(folder: str, hog: str) -> dict[str, Any]:
    """A host that lives in the group, and starts what wants more than there is."""
    import os
    import signal
    from pathlib import Path

    import elfolio
    from tests.spawn.kindling import await_standing
    from tests.spawn.probing import children
    from tests.spawn.test_warm_memory import Group

    group = Group(Path(folder))
    group.limit(96 << 20)
    group.put(os.getpid())
    with elfolio.SpawnTemplate(hog, temperature="warm") as template:
        template.spawn(["hog", "1"]).wait()
        process, _ = await_standing(template)
        out = []
        for _ in range(3):
            big = template.spawn(["hog", "400"])
            out.append((big.temperature, big.wait() == -signal.SIGKILL))
            out += [
                (child.temperature, child.wait() == 2) for child in [template.spawn(["hog", "1"]) for _ in range(4)]
            ]
        same = template._heat.warm is not None and template._heat.warm.facts()[0] == process
    return {"out": out, "same": same, "left": children(), "kills": group.kills}


@pytest.mark.skipif(SANITIZED, reason="AddressSanitizer takes the memory itself; to force: make test")
def test_a_child_that_takes_too_much(group: Group, programs: Path) -> None:
    """The kernel kills the warm child that wants more than the host's group has: it alone ends so, the template's
    process and the other children are what they were."""
    hog = compile_dynamic(programs / "hog", _HOG)
    got = in_fresh_host(hungry, str(group.folder), str(hog))
    assert got["out"] == [["warm", True]] * 15
    assert (got["same"], got["left"], got["kills"]) == (True, [], 3)
