"""bench.text_jobs: real programs with much text, and a job for each. In: a folder. Out: Jobs that can run here."""

import glob
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Job", "jobs"]


@dataclass(frozen=True)
class Job:
    """What a file's text is made to do."""

    name: str
    what: str
    file: Path
    """The program, or the library, that has the text."""
    command: Callable[[Path], Sequence[str]]
    """The words, given the program to run."""
    runner: str | None = None
    """For a library: the program that loads it."""
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def library(self) -> bool:
        """Whether it is loaded by another program."""
        return self.runner is not None

    def program(self, path: Path) -> Path:
        """What to execute, where the file stands at `path`."""
        return Path(self.runner) if self.runner else path

    def words(self, path: Path) -> list[str]:
        """The whole command."""
        return [*self.command(self.program(path))]

    def environment(self, path: Path) -> dict[str, str]:
        """Its whole environment."""
        found = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LC_ALL": "C", **dict(self.variables)}
        if self.library:
            found["LD_LIBRARY_PATH"] = str(path.parent)
        return found


def jobs(folder: Path, only: Sequence[str] | None) -> Iterator[Job]:
    """Those whose programs are here; all, unless some are named."""
    for name, make in _MAKERS.items():
        if only is None or name in only:
            job = make(folder)
            if job is None:
                print(f"{name}: not installed here", flush=True)
            else:
                yield job


def _git(folder: Path) -> Job | None:
    git = shutil.which("git")
    if git is None:
        return None
    tree = folder / "repository"
    run = [git, "-C", str(tree), "-c", "user.name=n", "-c", "user.email=e", "-c", "gc.auto=0"]
    subprocess.run([git, "init", "-q", str(tree)], check=True)
    for turn in range(40):
        for number in range(60):
            (tree / f"{number}").write_text("".join(f"{i * (turn + number) % 977}\n" for i in range(400)))
        subprocess.run([*run, "add", "-A"], check=True)
        subprocess.run([*run, "commit", "-qm", f"{turn}"], check=True)
    words = ["-C", str(tree), "log", "--stat", "-p", "-M"]
    return Job("git", "git log -p of 40 commits", Path(git).resolve(), lambda program: [str(program), *words],
               variables=(("GIT_CONFIG_GLOBAL", "/dev/null"),))  # fmt: skip


def _cc1(folder: Path) -> Job | None:
    found = sorted(glob.glob("/usr/lib/gcc/*/*/cc1"))
    if not found:
        return None
    source = folder / "job.c"
    source.write_text("".join(
        f"static int f{n}(int*p,int n){{int s=0;for(int i=0;i<n;i++)s+=p[i]*{n}+(s>>{n % 13});return s;}}\n"
        f"int g{n}(int*p){{return f{n}(p,{n})+f{n}(p+1,3);}}\n" for n in range(500)
    ))  # fmt: skip
    words = ["-quiet", "-O2", str(source), "-o", "/dev/null"]
    return Job("cc1", "cc1 -O2 of 1,000 functions", Path(found[-1]), lambda program: [str(program), *words])


def _clang(folder: Path) -> Job | None:
    clang = shutil.which("clang")
    found = sorted(glob.glob("/usr/lib/*/libLLVM-*.so.1"))
    if clang is None or not found:
        return None
    source = folder / "clang-job.c"
    source.write_text("".join(f"int g{n}(int*p){{int s=0;for(int i=0;i<{n};i++)s+=p[i];return s;}}\n"
                              for n in range(300)))  # fmt: skip
    words = ["-O2", "-c", str(source), "-o", "/dev/null"]
    real = str(Path(clang).resolve())
    return Job("libLLVM", "clang -O2 of 300 functions, with this libLLVM", Path(found[0]).resolve(),
               lambda program: [str(program), *words], runner=real)  # fmt: skip


def _python(folder: Path) -> Job | None:
    python = Path("/usr/bin/python3").resolve()
    if not python.exists():
        return None
    script = folder / "job.py"
    script.write_text(
        "import ast,json,re\n"
        "t=open(ast.__file__).read()\n"
        "for _ in range(6):\n"
        "    d=ast.dump(ast.parse(t)); json.loads(json.dumps(re.findall(r'[A-Za-z]+', d)))\n"
    )
    words = ["-I", str(script)]
    return Job("python", "python parses and dumps its module ast", python, lambda program: [str(program), *words],
               variables=(("PYTHONHOME", "/usr"),))  # fmt: skip


def _node(folder: Path) -> Job | None:
    node = shutil.which("node")
    if node is None:
        return None
    script = folder / "job.js"
    script.write_text(
        "const vm=require('vm');let s=0;for(let i=0;i<1500;i++){const t=`(function(a){let b=${i};"
        "for(let k=0;k<50;k++)b=(b*31+k)%977;return JSON.stringify({a,b})})`;s+=vm.runInThisContext(t)(i).length}"
        "require('crypto');require('http');require('zlib').gzipSync(Buffer.alloc(1<<20,'elf'));console.log(s)"
    )
    return Job("node", "node compiles 1,500 functions", Path(node).resolve(),
               lambda program: [str(program), str(script)])  # fmt: skip


def _postgres(folder: Path) -> Job | None:
    """It refuses to run as root: then as nobody."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
    if not found:
        return None
    data, sql = folder / "data", folder / "job.sql"
    root = os.geteuid() == 0
    nobody = pwd.getpwnam("nobody")
    as_ = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"] if root else []
    data.mkdir()
    if root:
        os.chmod(folder, 0o755)
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
    init = [*as_, str(Path(found[-1]).with_name("initdb")), "-D", str(data), "-A", "trust", "--no-sync"]
    subprocess.run(init, check=True, capture_output=True)
    sql.write_text(
        "create temp table t as select i, md5(i::text) m from generate_series(1, 60000) i;\n"
        "select count(*), max(m) from t a join t b using (m) where a.i % 7 = 0;\n"
        "select substr(m, 1, 2) k, count(*), avg(i) from t group by 1 order by 2 desc, 1;\n"
    )
    words = ["--single", "-D", str(data), "-F", "postgres"]
    return Job("postgres", "postgres --single: a join and a grouping of 60,000 rows", Path(found[-1]),
               lambda program: ["sh", "-c", '"$@" <' + str(sql), "sh", *as_, str(program), *words])  # fmt: skip


_MAKERS: dict[str, Callable[[Path], Job | None]] = {
    "git": _git,
    "libLLVM": _clang,
    "postgres": _postgres,
    "cc1": _cc1,
    "python": _python,
    "node": _node,
}
