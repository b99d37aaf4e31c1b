"""Indistinguishable from cold: random spawns, each done cold and warm, and all that the program could see of it."""

import os
from pathlib import Path
from typing import Any

import pytest

import elfolio
from tests.spawn import mirroring
from tests.spawn.mirroring import Seen, answer_of, compile_mirror, has, normalised, parse
from tests.spawn.probing import NOBODY, in_fresh_host
from tests.spawn.scenes import FAULTS

EVERYDAY = 300
THOUSANDS = 3_000

USERS = [
    pytest.param(-1, id="root", marks=pytest.mark.root),
    pytest.param(NOBODY if os.geteuid() == 0 else -1, id="ordinary"),
]


@pytest.fixture(scope="module")
def mirror(programs: Path) -> Path:
    """The compiled mirror, where any user may run it."""
    return compile_mirror(programs)


@pytest.fixture
def seen(mirror: Path) -> Seen:
    """What the mirror sees of a plain start."""
    os.truncate(answer_of(mirror), 0)
    with elfolio.SpawnTemplate(mirror) as template:
        assert template.run(["mirror"], env={}).returncode == 0
    found = parse(answer_of(mirror).read_text())
    assert found is not None
    return found


def compared(mirror: Path, temperature: str, examples: int, user: int) -> dict[str, Any]:
    """In a host of its own, as `user`, or as the one who runs the tests if that is -1."""

    def host(*arguments: Any) -> Any:
        from tests.spawn.staging import compare

        return compare(*arguments)

    counts: dict[str, Any] = in_fresh_host(host, str(mirror), temperature, examples, user, timeout=1200)
    assert counts["examples"] >= examples, counts
    assert counts["started"] >= 0.85 * examples, f"too many failed: {counts}"
    assert counts["failed"] >= 0.02 * examples, f"too few failed: {counts}"
    assert counts["seen"] >= 0.95 * counts["started"], f"too few were seen: {counts}"
    return counts


def warm_is_cold(mirror: Path, examples: int, user: int) -> None:
    counts = compared(mirror, "warm", examples, user)
    print(counts)
    assert counts["warm"] >= 0.95 * counts["started"], f"too many ran cold: {counts}"


@pytest.mark.parametrize("user", USERS)
def test_warm_equals_cold(mirror: Path, user: int) -> None:
    """What a program sees of its start, how it ends, what it leaves, and how a spawn fails: all as cold; and 95% of
    those that start run warm."""
    warm_is_cold(mirror, EVERYDAY, user)


@pytest.mark.slow
@pytest.mark.parametrize("user", USERS)
def test_warm_equals_cold_thousands_of_times(mirror: Path, user: int) -> None:
    """The same, over thousands of spawns."""
    warm_is_cold(mirror, THOUSANDS, user)


@pytest.mark.parametrize("user", USERS)
def test_cold_equals_cold(mirror: Path, user: int) -> None:
    """The control: what is left after normalisation is the same in any two starts, so that a difference is one."""
    assert compared(mirror, "cold", 100, user)["warm"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("user", USERS)
def test_cold_equals_cold_thousands_of_times(mirror: Path, user: int) -> None:
    """The same, over thousands of spawns."""
    assert compared(mirror, "cold", THOUSANDS, user)["warm"] == 0


NOTICED: list[tuple[dict[str, Any], str]] = [
    ({"umask": 0o77}, "umask"),
    ({"env": {"A": "b"}}, "environ"),
    ({"env_allow": ["PATH"]}, "environ"),
    ({"cwd": "/usr"}, "getcwd"),
    ({"pass_fds": [41]}, "descriptors.41"),
    ({"rlimits": {7: (99, 99)}}, "limits.7"),
    ({"nice": 3}, "nice"),
    ({"start_new_session": True}, "session"),
    ({"process_group": 0}, "group"),
    ({"start_new_session": True, "pass_fds": [47], "controlling_tty": 47}, "stat.tty_nr"),
    ({"no_new_privs": True}, "prctl.no_new_privs"),
    ({"pdeathsig": 10}, "prctl.pdeathsig"),
    ({"oom_score_adj": 7}, "proc.oom_score_adj"),
    ({"restore_signals": False}, "dispositions.13"),
]


def test_a_difference_is_noticed(mirror: Path) -> None:
    """The other control: a spawn that was asked for one more thing is told apart, by that; an equal one is not."""

    def host(program: str, changes: str) -> Any:
        import ast

        from tests.spawn.staging import compared_once

        return [compared_once(program, {}, options) for options in ast.literal_eval(changes)]

    same, *unlike = in_fresh_host(host, str(mirror), repr([{}, *(options for options, _ in NOTICED)]))
    assert same == []
    for (options, path), lines in zip(NOTICED, unlike, strict=True):
        assert any(line.startswith((f"{path}:", f"{path}.")) for line in lines), (options, lines)


def test_what_is_left_out_exists(seen: Seen) -> None:
    """Each entry of the list of what cannot be equal is something that the mirror shows, and has its reason."""
    for path in (*mirroring.REMOVED, *mirroring.RELATIVE, *mirroring.REWRITTEN, *mirroring.MASKED):
        known_elsewhere = path in {"terminal.session", "terminal.foreground"} or path.startswith("proc.")
        assert known_elsewhere or has(seen, path), path
    assert all(mirroring.REMOVED.values())
    assert not any(has(normalised(seen), path) for path in mirroring.REMOVED)


def test_the_mirror_is_right_about_a_cold_start(seen: Seen) -> None:
    """What cold is compared with: vectors in order, one idea of the tid, a canary of AT_RANDOM, no anonymous code,
    constructors and destructors in their order, nothing used up."""
    assert set(seen["layout"].values()) == {1}
    assert seen["cmdline"]["same"] == seen["proc_environ"]["same"] == 1
    assert seen.get("canary_is_of_random", 1) == 1
    assert seen["executable_anonymous"] == 0
    assert {seen["stack"][name] for name in ("holds_local", "inside_mapping", "ends_with_first_frame")} == {1}
    assert abs(seen["stack"]["size_by_limit"]) == 1
    assert [seen["thread"][name] for name in ("tid_is_pid", "cached_tid", "clock_tid", "tid_at_address")] == [1] * 4
    assert [seen["threads"][name] for name in ("created", "joined", "cached_tid", "tid_still_cached")] == [0, 0, 1, 1]
    assert (seen["fork"]["wrong"], seen["programs"]["system"], seen["programs"]["status"]) == (0, 0, 0)
    assert (seen["signals"]["after_sigterm"], seen["signals"]["queued"]) == (15, 4711)
    assert seen["late_library"]["argv"] == seen["argv"]
    assert seen["before_main"] == "library-constructor constructor-201 constructor-202"
    assert seen["ended"][0]["ended"].split()[3:] == [
        "atexit-2",
        "on_exit",
        "atexit-1",
        "destructor-201",
        "library-destructor",
    ]


def test_the_faults_are_faults(mirror: Path) -> None:
    """A scene that is meant to fail does, but for one that root may do and one that any other may not."""

    def host(program: str) -> Any:
        import elfolio
        from tests.spawn.scenes import FAULTS, plain
        from tests.spawn.staging import Ground, perform

        ground = Ground()
        try:
            with elfolio.SpawnTemplate(program) as template:
                done = [perform(template, plain(ground.root, **options), ground) for options in FAULTS]
            return [outcome.error for outcome in done]
        finally:
            ground.close()

    errors = in_fresh_host(host, str(mirror))
    assert len(errors) == len(FAULTS)
    assert [error is None for error in errors] == [options == {"nice": -1} and os.geteuid() == 0 for options in FAULTS]
