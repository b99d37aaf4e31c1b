"""A soak: starts for minutes while packages are upgraded and processes killed, stopped and starved at random."""

from pathlib import Path
from typing import Any

import pytest

from tests.spawn.kindling import compile_dynamic
from tests.spawn.probing import NOBODY, SANITIZED, in_fresh_host

SECONDS = [10, pytest.param(300, marks=pytest.mark.slow)]

_PROGRAM = """
#include <stdlib.h>
int version_at_start(void);
int version(void);
int main(int argc, char **argv) { return version_at_start() == version() ? atoi(argv[1]) : 99; }
"""
_LIBRARY = """
static int started;
__attribute__((constructor)) static void start(void) { started = VERSION; }
int version_at_start(void) { return started; }
int version(void) { return VERSION; }
"""


@pytest.fixture
def package(programs: Path, open_folder: Path) -> Path:
    """A program and a library in two versions each, to be put into place. It ends with 99 where they are mixed."""
    (open_folder / "lib").mkdir()
    (open_folder / "bin").mkdir()
    where = f"-Wl,-rpath,{open_folder}/lib"
    for version in (1, 2):
        library = open_folder / f"libversion.so.{version}"
        compile_dynamic(library, _LIBRARY, "-shared", "-fPIC", f"-DVERSION={version}", "-Wl,-soname,libversion.so")
        compile_dynamic(open_folder / f"program.{version}", _PROGRAM, "-x", "none", str(library), where)
    return open_folder


def soak(folder: str, seconds: float, user: int) -> dict[str, Any]:
    """Spawns from three threads; a fourth does all the harm. Figures before and after. Root becomes `user`, because
    root may always make another process."""
    import contextlib
    import ctypes
    import errno
    import gc
    import os
    import random
    import resource
    import shutil
    import signal
    import threading
    import time
    from collections import Counter
    from pathlib import Path

    import elfolio
    from elfolio.spawn.thermostat import policy
    from tests.spawn.kindling import standing
    from tests.spawn.probing import children, open_fds

    policy.starts = 8
    program = f"{folder}/bin/program"
    counts, harm = Counter[str](), Counter[str]()
    wrong: list[Any] = []
    struck: set[int] = set()
    lock = threading.Lock()
    rng = random.Random(7)
    slowest = 0.0

    def put(name: str, place: str) -> None:
        shutil.copy(f"{folder}/{name}.{rng.randint(1, 2)}", f"{place}/{name}.new")
        os.rename(f"{place}/{name}.new", f"{place}/{name}")

    def spawner(template: elfolio.SpawnTemplate, until: float, seed: int) -> None:
        nonlocal slowest
        mine = random.Random(seed)
        while time.monotonic() < until:
            wanted = mine.randrange(99)
            began = time.monotonic()
            try:
                child = template.spawn(["program", str(wanted)])
            except OSError as error:
                with lock:
                    counts[f"errno {error.errno}"] += 1
                    if error.errno not in (errno.EMFILE, errno.ESTALE):
                        wrong.append(repr(error))
                continue
            took = time.monotonic() - began
            code = child.wait()
            with lock:
                slowest = max(slowest, took)
                counts[child.temperature] += 1
                # One that stood by when it was looked for may be a command by the time that the signal comes.
                hit = code == -signal.SIGKILL and child.pid in struck
                counts["hit"] += hit
                if code != wanted and not hit:
                    wrong.append([wanted, code, child.temperature])

    def strike(pid: int, stop: bool) -> None:
        pidfd = os.pidfd_open(pid)
        try:
            with lock:
                struck.add(pid)
            if stop:
                signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
                time.sleep(rng.choice((0.05, 0.5, 3)))
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)

    def starve() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_fds()) + rng.randint(0, 8), hard))
        time.sleep(0.05)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def saboteur(templates: list[elfolio.SpawnTemplate], until: float) -> None:
        while time.monotonic() < until:
            time.sleep(rng.random() * 0.2)
            act = rng.choice(("library", "program", "kill", "kill", "stop", "barren", "starve"))
            harm[act] += 1
            with contextlib.suppress(AssertionError, OSError, TypeError, AttributeError):
                if act == "library":
                    put("libversion.so", f"{folder}/lib")
                elif act == "program":
                    put("program", f"{folder}/bin")
                elif act == "starve":
                    starve()
                else:
                    process, standbys = standing(rng.choice(templates))
                    if act == "barren":
                        resource.prlimit(process, resource.RLIMIT_NPROC, (0, 0))
                    else:
                        strike(rng.choice([process, *standbys]), act == "stop")

    def figures() -> dict[str, Any]:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        rss = pages * os.sysconf("SC_PAGESIZE") // 1024
        links = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in open_fds())
        return {"fds": links, "children": len(children()), "rss_kib": rss}

    def phase(length: float) -> dict[str, Any]:
        with (
            elfolio.SpawnTemplate(program, temperature="warm", rebuild=True, rotate_after=200) as firm,
            elfolio.SpawnTemplate(program, rebuild=True, max_age=2) as auto,
        ):
            until = time.monotonic() + length
            team = [threading.Thread(target=spawner, args=(t, until, n)) for n, t in enumerate((firm, firm, auto))]
            team.append(threading.Thread(target=saboteur, args=([firm, auto], until)))
            for thread in team:
                thread.start()
            for thread in team:
                thread.join()
            for template in (firm, auto):
                for wanted in range(20):
                    assert template.spawn(["program", str(wanted)]).wait() == wanted
            harm["processes"] += firm._heat.started + auto._heat.started
        return figures()

    put("libversion.so", f"{folder}/lib")
    put("program", f"{folder}/bin")
    phase(seconds / 10)  # imports what it needs
    if os.geteuid() == 0:
        for path in (folder, f"{folder}/bin", f"{folder}/lib"):
            os.chown(path, user, user)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
    before = phase(seconds / 10)  # stacks, arenas and caches are made
    after = phase(seconds)
    stats = elfolio.stats().programs[program]
    return {
        "before": before, "after": after, "wrong": wrong[:5], "counts": counts, "harm": harm, "slowest": slowest,
        "fallbacks": dict(stats.fallbacks), "rebuilds": stats.stale_rebuilds,
    }  # fmt: skip


@pytest.mark.parametrize("seconds", SECONDS)
def test_soak(seconds: float, package: Path) -> None:
    """Through upgrades, kills, stops and starvation: every status right, no version mixed, memory and descriptors
    flat, no start longer than its bound."""
    got = in_fresh_host(soak, str(package), seconds, NOBODY, timeout=60 + 2 * seconds)
    counts, before, after = got["counts"], got["before"], got["after"]
    spawns = counts["warm"] + counts["cold"]
    print(f"{spawns} spawns, {100 * counts['warm'] / spawns:.1f}% warm, before {before}, after {after}, {got}")
    assert got["wrong"] == []
    assert (len(after["fds"]), after["children"]) == (len(before["fds"]), 0), after["fds"]
    assert SANITIZED or after["rss_kib"] - before["rss_kib"] < 4096
    assert counts["warm"] > spawns // 10
    assert got["slowest"] < 15
