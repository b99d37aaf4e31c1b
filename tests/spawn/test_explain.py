"""`template.explain()`: which temperature, why not a warmer one, and what it saves. Nothing is run unless asked for."""

import ast
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import elfolio
from elfolio import _native
from elfolio.spawn import thermostat
from elfolio.spawn.explaining import UNEQUAL, Explanation
from elfolio.spawn.reasons import DRIFTS, REASONS, outcome_reason, take_apart
from tests.conftest import every_child
from tests.spawn.probing import PRELOADED, ROOT, alive, await_gone, children, in_fresh_host

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="warm templates are x86-64's; to force: run it there"),
]

SPAWN = ROOT / "src/elfolio/spawn"
NOTHING = "int main(void) { return 0; }"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the test's host changes what is loaded."""
    for name in [name for name in os.environ if name.startswith(("LD_", "GLIBC_", "MALLOC_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs are compiled into."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc; to force: apt-get install gcc libc6-dev")
    return tmp_path_factory.mktemp("explain")


def compiled(path: Path, *flags: str, source: str = NOTHING, compiler: str = "gcc") -> Path:
    """The program or library `path`, which does nothing unless `source` does."""
    command = [compiler, "-O1", "-x", "c", "-", "-x", "none", *flags, "-o", str(path)]
    done = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"needs {compiler} {' '.join(flags)}; to force: install its libraries")
    return path


def with_library(folder: Path, name: str, includes: str, body: str) -> Path:
    """A program that needs a library whose constructor does `body`."""
    source = "".join(f"#include <{header}.h>\n" for header in includes.split())
    source += f"static void *body(void *p) {{ (void)p; {body}; return 0; }}\n"
    source += "__attribute__((constructor)) static void start(void) { body(0); }\n"
    library = compiled(folder / f"lib{name}.so", "-shared", "-fPIC", source=source)
    return compiled(folder / name, "-Wl,--no-as-needed", str(library), f"-Wl,-rpath,{folder}")


def explained(path: Path | str, **keywords: Any) -> Explanation:
    """What a template of it says after having tried."""
    with elfolio.SpawnTemplate(path, **keywords) as template:
        return template.explain(try_warm=True)


def told(path: Path | str, **keywords: Any) -> tuple[str, str]:
    """The reason why it is cold, and what that is about; it starts all the same."""
    with elfolio.SpawnTemplate(path, **keywords) as template:
        why = template.explain(try_warm=True).why
        assert why is not None
        assert (why.sentence, why.mend) == (REASONS[why.reason].sentence, REASONS[why.reason].mend)
        with template.spawn(["program"]) as child:
            assert child.temperature == "cold"
            child.kill()
        return why.reason, why.detail


# --- a program that can be warm ---------------------------------------------------------------------------


def test_a_warm_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain program is warm once tried: with its process, memory, what must stay, and what is never equal."""
    monkeypatch.setattr(thermostat.policy, "eager", False)
    monkeypatch.setattr(thermostat.policy, "starts", 32)
    with elfolio.SpawnTemplate("/usr/bin/true", rotate_after=7, max_age=8) as template:
        before = template.explain()
        assert (before.asked, before.temperature, before.process) == ("auto", "cold", None)
        assert before.why is not None
        assert (before.why.reason, before.why.lasts) == ("not yet", False)
        assert before.wait
        assert children() == []
        now = template.explain(try_warm=True)
        assert (now.temperature, now.why, now.wait, now.measured, now.saved_us) == ("warm", None, None, None, None)
        process = now.process
        assert process is not None
        assert process.pid in every_child()
        assert set(process.standbys) <= set(every_child()) - {process.pid}
        assert 0 < (process.pss or 0) < (process.rss or 0)
        assert (process.served, now.rotate_after, now.max_age) == (0, 7, 8)
        assert 0 < process.age < 60
        assert any("libc.so" in path for path in process.objects)
        assert process.variables is not None
        assert "LD_*" in process.variables
        assert now.unequal == UNEQUAL
        with template.spawn(["true"]) as child:
            assert (child.wait(), child.temperature) == (0, "warm")
        again = template.explain()
        assert again.process is not None
        assert (again.process.pid, again.process.served) == (process.pid, 1)
        assert dict(again.by_temperature)["warm"] >= 1
    assert not alive(process.pid)
    with pytest.raises(ValueError, match="closed"):
        template.explain()


def test_a_file_that_was_exchanged(folder: Path) -> None:
    """explain raises what a spawn would raise."""
    path = compiled(folder / "exchanged")
    with elfolio.SpawnTemplate(path) as template:
        path.unlink()
        with pytest.raises(elfolio.StaleTemplate):
            template.explain()


# --- why not warm: the program ----------------------------------------------------------------------------


def test_asked() -> None:
    """What was asked for is the first reason."""
    assert told("/usr/bin/true", temperature="cold") == ("asked cold", "")
    assert told("/usr/bin/true", audit="strict", temperature="warm") == ("audit strict", "")
    with elfolio.SpawnTemplate("/usr/bin/true", temperature="warm") as template:
        why = template.explain().why
        assert why is not None
        assert why.reason == "not tried"


def test_what_its_file_tells(folder: Path) -> None:
    """What the file shows needs no trying, and lasts."""
    script = folder / "script"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    static = compiled(folder / "static", "-static")
    for path, reason in (script, "script"), (static, "static"):
        with elfolio.SpawnTemplate(path, temperature="warm") as template:
            why = template.explain().why
            assert why is not None
            assert why.reason == reason
        explanation = explained(path)
        assert explanation.why is not None
        assert (explanation.why.reason, explanation.why.lasts, explanation.unequal) == (reason, True, {})


def test_musl(folder: Path) -> None:
    """musl's dynamic linker."""
    if shutil.which("musl-gcc") is None:
        pytest.skip("needs musl-gcc; to force: apt-get install musl-tools")
    assert told(compiled(folder / "musl", compiler="musl-gcc")) == ("musl", "")


@pytest.mark.root
def test_privileges_of_the_file(folder: Path) -> None:
    """Set-id and file capabilities."""
    setuid = compiled(folder / "setuid")
    setuid.chmod(0o4755)
    assert told(setuid) == ("set-id", "")
    capable = compiled(folder / "capable")
    # struct vfs_cap_data (include/uapi/linux/capability.h), revision 2, effective, CAP_NET_BIND_SERVICE
    data = b"".join(word.to_bytes(4, "little") for word in (0x02000001, 1 << 10, 0, 0, 0))
    os.setxattr(capable, "security.capability", data)
    assert told(capable) == ("file capabilities", "")


@pytest.mark.root
def test_secure_mode() -> None:
    """Real and effective ids that differ make the kernel set AT_SECURE."""

    def host() -> str:
        import os

        import elfolio

        os.setresuid(65534, 0, 0)
        with elfolio.SpawnTemplate("/usr/bin/true") as template:
            why = template.explain(try_warm=True).why
            return "" if why is None else why.reason

    assert in_fresh_host(host) == "AT_SECURE"


@pytest.mark.parametrize(("flags", "about"), [(("address",), "libasan"), (("address", "static"), "shadow memory")])
def test_sanitizers(folder: Path, flags: tuple[str, ...], about: str) -> None:
    """A sanitizer's runtime, in a library and in the program."""
    options = ["-fsanitize=address", *(["-static-libasan"] if "static" in flags else [])]
    reason, detail = told(compiled(folder / f"sanitized-{len(flags)}", *options))
    assert reason == "sanitizer"
    assert detail.startswith(about)


def test_search_path(folder: Path) -> None:
    """A relative search path depends on the working directory."""
    assert told(compiled(folder / "relative", "-Wl,-rpath,here")) == ("search path", "here")


# --- why not warm: constructors ---------------------------------------------------------------------------

_LOCK = 'int fd = open("/proc/self/exe", O_RDONLY); '
CONSTRUCTORS = {
    "threads at main": ("pthread unistd", "if (!p) { pthread_t t; pthread_create(&t, 0, body, &t); } else pause()"),
    "a socket": ("sys/socket", "socket(AF_UNIX, SOCK_STREAM, 0)"),
    "a timer": (
        "signal time",
        "timer_t t; struct sigevent e = {.sigev_notify = SIGEV_NONE}; timer_create(CLOCK_MONOTONIC, &e, &t)",
    ),
    "a timer: setitimer": ("unistd", "alarm(1000)"),
    "a file lock": ("fcntl sys/file", f"{_LOCK} flock(fd, LOCK_SH)"),
    "a file lock: posix": ("fcntl", f"{_LOCK} struct flock l = {{.l_type = F_RDLCK}}; fcntl(fd, F_SETLK, &l)"),
    "a lock": (
        "pthread",
        "static pthread_mutex_t m; pthread_mutexattr_t a; pthread_mutexattr_init(&a); "
        "pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST); pthread_mutex_init(&m, &a); pthread_mutex_lock(&m)",
    ),
    "an open file": ("fcntl", 'open("/dev/null", O_RDONLY)'),
    "an open file: event": ("sys/eventfd", "eventfd(0, 0)"),
    "an atfork handler": ("pthread stddef", "pthread_atfork(NULL, NULL, NULL)"),
    "locked memory": ("sys/mman", "static char m[8192]; mlock(m, sizeof m)"),
    "shared memory": ("sys/mman", "mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)"),
    "memory that a fork does not copy": (
        "sys/mman",
        "madvise(mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096, 10)",  # MADV_DONTFORK
    ),
    "a constructor that changed the process": ("sys/stat", "umask(0123)"),
    "a constructor that changed the process: signal": ("sys/prctl", "prctl(PR_SET_PDEATHSIG, 9)"),
}


@pytest.mark.parametrize("reason", CONSTRUCTORS)
def test_what_a_library_did(folder: Path, reason: str) -> None:
    """Each thing that a fork would not carry over, or would share, has its own reason."""
    path = with_library(folder, re.sub(r"\W", "-", reason), *CONSTRUCTORS[reason])
    assert told(path)[0] == reason.partition(":")[0]


def test_what_a_library_started(folder: Path) -> None:
    """A process that a constructor starts is the reason, and does not outlive the trial."""
    note = folder / "its-pid"
    body = f'if (!fork()) {{ FILE *f = fopen("{note}", "w"); fprintf(f, "%d", getpid()); fclose(f); pause(); }}'
    path = with_library(folder, "forking", "stdio unistd", f"{body} usleep(100000)")
    explanation = explained(path)
    assert explanation.why is not None
    assert explanation.why.reason == "a child process at main"
    await_gone(int(note.read_text()))


def test_a_harmless_library(folder: Path) -> None:
    """A constructor that reads a variable makes that variable one that must be the same."""
    path = with_library(folder, "harmless", "stdlib", 'getenv("MOOD")')
    with elfolio.SpawnTemplate(path) as template:
        process = template.explain(try_warm=True).process
        assert process is not None
        assert process.variables is not None
        assert "MOOD" in process.variables
        for mood in "good", "bad":
            explanation = template.explain(env={**os.environ, "MOOD": mood})
            assert explanation.why is not None
            assert explanation.why.reason == "a variable read before main differs"
        assert template.explain(env={**os.environ, "OTHER": "x"}).temperature == "warm"


# --- why not warm: where it is started, and how -----------------------------------------------------------


def test_a_loader_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the dynamic linker obeys is found before anything is tried; without it the program is warm."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    assert told("/usr/bin/true") == ("a loader variable", "LD_LIBRARY_PATH")
    with elfolio.SpawnTemplate("/usr/bin/true", temperature="warm") as template:
        why = template.explain().why
        assert why is not None
        assert (why.reason, why.lasts) == ("a loader variable", False)
        assert template.explain(try_warm=True, env_allow=["PATH"]).temperature == "warm"


@pytest.mark.usefixtures("seccomp")
@pytest.mark.parametrize("answer", ["EPERM", "ENOSYS", "KILL"])
def test_a_seccomp_filter(answer: str) -> None:
    """Where a filter refuses ptrace, or kills for it, the reason is seccomp, and starts are cold."""

    def host(answer: str) -> list[str]:
        import elfolio
        from tests.spawn import seccomp

        seccomp.deny(("ptrace", getattr(seccomp, answer)))
        with elfolio.SpawnTemplate("/usr/bin/true", temperature="warm") as template:
            why = template.explain(try_warm=True).why
            with template.spawn(["true"]) as child:
                return ["" if why is None else why.reason, child.temperature, str(child.wait())]

    assert in_fresh_host(host, answer, timeout=60) == ["seccomp", "cold", "0"]


def test_a_small_stack() -> None:
    """A stack limit without room for a warm child's arguments."""

    def host() -> str:
        import resource

        import elfolio

        resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
        with elfolio.SpawnTemplate("/usr/bin/true") as template:
            why = template.explain(try_warm=True).why
            return "" if why is None else why.reason

    assert in_fresh_host(host) == "a small stack limit"


def test_what_is_asked_of_this_start() -> None:
    """Options that need an exec; the template is warm for other starts."""
    wanted: list[tuple[dict[str, Any], str]] = [
        ({"user": os.getuid()}, "credentials take effect at exec"),
        ({"inherit_fds": True}, "inherit_fds: what would be inherited is not known"),
        ({"pdeathsig": signal.SIGKILL}, "pdeathsig is about the thread that spawns"),
        ({"cwd": "/proc/self"}, "a path through /proc"),
        ({"private_cgroup": True}, "a cgroup is one of birth"),
    ]
    with elfolio.SpawnTemplate("/usr/bin/true") as template:
        assert template.explain(try_warm=True).temperature == "warm"
        for options, reason in wanted:
            explanation = template.explain(["true"], measure=3, **options)
            assert explanation.why is not None
            assert (explanation.why.reason, explanation.measured) == (reason, None)
        assert template.explain(cwd="/").temperature == "warm"


def test_what_has_become_of_it(folder: Path) -> None:
    """A process that would not serve the next start: rotated, killed, or made of what has changed."""
    path = with_library(folder, "changing", "stdlib", "abs(1)")
    reasons = []
    with elfolio.SpawnTemplate(path, rotate_after=1) as template:
        template.explain(try_warm=True)
        template.spawn(["x"]).wait()
        reasons.append(template.explain().why)
    with elfolio.SpawnTemplate(path) as template:
        process = template.explain(try_warm=True).process
        os.utime(folder / "libchanging.so")
        reasons.append(template.explain().why)
    with elfolio.SpawnTemplate("/usr/bin/true") as template:
        process = template.explain(try_warm=True).process
        assert process is not None
        for pid in process.pid, *process.standbys:
            os.kill(pid, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        explanation = template.explain()
        if explanation.why is not None:  # or a standby of it is known, and can still be taken
            assert explanation.why.reason == "the template's process ended"
    assert [why.reason if why else "" for why in reasons] == ["rotated", "changed"]


def test_a_drift() -> None:
    """Surroundings that are others now."""

    def host() -> str:
        import os

        import elfolio

        with elfolio.SpawnTemplate("/usr/bin/true") as template:
            assert template.explain(try_warm=True).temperature == "warm"
            os.nice(1)
            why = template.explain().why
            return "" if why is None else f"{why.reason}/{template.spawn(['true']).temperature}"

    assert in_fresh_host(host) == "drifted: scheduling/cold"


# --- what it saves ----------------------------------------------------------------------------------------


def test_a_measurement(folder: Path, tmp_path: Path) -> None:
    """`measure` starts the command N times warm and 2N times cold, on /dev/null, and gives every sample."""
    source = "#include <unistd.h>\n#include <fcntl.h>\nint main(int c, char **v) { (void)c; char b; "
    source += 'int fd = open(v[1], O_WRONLY | O_APPEND | O_CREAT, 0600); return write(1, "out", 3) != 3 || '
    source += 'read(0, &b, 1) || write(fd, "x", 1) != 1; }'
    path = compiled(folder / "counting", source=source)
    note = tmp_path / "note"
    with elfolio.SpawnTemplate(path) as template:
        explanation = template.explain([str(path), str(note)], measure=4)
        assert note.read_text() == "x" * 12
        measured = explanation.measured
        assert measured is not None
        assert len(measured.cold_us) == len(measured.warm_us) == len(measured.control_us) == 4 - measured.missed
        assert min(measured.cold_us + measured.warm_us + measured.control_us) > 0
        assert explanation.saved_us == measured.saved_us
        assert measured.spread_us[0] <= measured.saved_us <= measured.spread_us[1]
        assert explanation.by_temperature == {}
    assert children() == []


def test_nothing_runs_unasked(folder: Path, tmp_path: Path) -> None:
    """Without `measure` the program's own code does not run, however it is explained."""
    source = '#include <fcntl.h>\nint main(void) { open("ran", O_WRONLY | O_CREAT, 0600); return 0; }'
    path = compiled(folder / "marking", source=source)
    with elfolio.SpawnTemplate(path) as template:
        assert template.explain(["marking"], try_warm=True, cwd=tmp_path).temperature == "warm"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [(None, True), ([], 3), (["true"], -1)])
def test_measurements_that_make_no_sense(arguments: tuple[list[str] | None, int]) -> None:
    """A measurement needs a command and a count."""
    argv, measure = arguments
    with elfolio.SpawnTemplate("/usr/bin/true") as template, pytest.raises(elfolio.InvalidArgument, match="measure"):
        template.explain(argv, measure=measure)


# --- the words --------------------------------------------------------------------------------------------


def literals(value: ast.expr | None) -> Iterator[str]:
    """The texts that an expression can have: a literal, or `a if b else c` of them."""
    for part in (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,):
        if isinstance(part, ast.IfExp):
            yield from literals(part)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def called_with(path: Path, *names: str) -> Iterator[str]:
    """The literals that are the first argument of calls of these names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names and node.args:
            yield from literals(node.args[0])


def returned_by(path: Path, *names: str) -> Iterator[str]:
    """The literals that functions of these names return, and that are given as `reason=`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return):
                    yield from literals(inner.value)
        if isinstance(node, ast.keyword) and node.arg == "reason":
            yield from (text for text in literals(node.value) if text)


def test_no_word_is_missing() -> None:
    """Every reason that is raised, counted or returned anywhere has its sentence; every word is used somewhere."""
    raised = {word for path in SPAWN.glob("*.py") for word in called_with(path, "NotWarm", "forbid", "_why")}
    cold = set(returned_by(SPAWN / "warmplan.py", "_cold_reason"))
    seen = set(returned_by(SPAWN / "explaining.py", "_misfit"))
    assert len(raised) > 25
    assert len(cold) == 8
    assert len(seen) == 4
    drifts = {f"drifted: {what}" for what in DRIFTS[1:]}
    outcomes = set()
    for code in range(_native.WARM_REFUSED, _native.WARM_UNTRIED):
        if code != _native.WARM_DRIFTED:
            text = outcome_reason(code, 1, [(b"a", None), (b"b", None)])
            assert not text.isdigit(), code
            outcomes.add(take_apart(text)[0])
    assert (raised | cold | seen | drifts | outcomes) - {"nothing"} == REASONS.keys()


def test_the_drifts_are_the_kernel_sides() -> None:
    """DRIFTS has a word for each member of enum drift."""
    header = (ROOT / "native/surroundings.h").read_text()
    members = re.findall(r"^    (DRIFT_\w+)", header, re.M)
    assert len(members) == len(DRIFTS) + 1
    assert members[-1] == "DRIFT_COUNT"


@pytest.mark.parametrize("word", REASONS)
def test_the_words_are_words(word: str) -> None:
    """A reason is one sentence, its mend another or nothing, and a counted text leads back to it."""
    reason = REASONS[word]
    for text in reason.sentence, reason.mend or "Nothing.":
        assert text.endswith(".")
        assert text[0].isupper()
    assert take_apart(f"warm: {word}") == take_apart(word) == (word, "")
    if ": " not in word:
        assert take_apart(f"{word}: x: y") == (word, "x: y")


def test_the_page_says_what_cannot_be_equal() -> None:
    """docs/security.md has each of them, under its name."""
    page = (ROOT / "docs/security.md").read_text()
    for name in UNEQUAL:
        assert f"**{name.capitalize()}.**" in page, name


def test_explaining_is_loaded_when_it_is_asked_for() -> None:
    """A spawn does not pay for explanations."""
    code = "import sys, elfolio; elfolio.SpawnTemplate; sys.exit('elfolio.spawn.explaining' in sys.modules)"
    environment = {**os.environ, **PRELOADED}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
