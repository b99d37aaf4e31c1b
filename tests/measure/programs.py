"""Programs of every linker and language that this machine has, built for the tests. In: a directory. Out: paths."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

SOURCE = r"""
#include <stdio.h>
const int ro = 1;
int w0, w1 = 1;
int *const pw0 = &w0;
static char big[300000];
__thread int t = 3;
#ifdef ALIGNED
__attribute__((aligned(ALIGNED))) int over;
#endif
int main(void) { printf("%d %d %d %p %p\n", ro, w0, w1, (void *)pw0, (void *)big); return t; }
"""
KINDS = {"pie": ("-pie", "-fPIE"), "exec": ("-no-pie",), "static": ("-static",), "static-pie": ("-static-pie", "-fPIE")}
MODES = ("", "-Wl,-z,noseparate-code", "-Wl,-z,separate-code", "-Wl,-z,separate-loadable-segments")
PAGES = ("", "65536", "2097152", "33554432", "1073741824")
LINKERS = {"bfd": "ld.bfd", "gold": "ld.gold", "lld": "ld.lld", "mold": "ld.mold"}
GO = 'package main\nimport "fmt"\nfunc main() { fmt.Println("hi") }\n'


def source(where: Path) -> Path:
    """The program's C file."""
    path = where / "a.c"
    path.write_text(SOURCE)
    return path


def compiled(out: Path, *flags: str, compiler: str = "gcc") -> Path | None:
    """None where this combination cannot be linked here."""
    made = source(out.parent)
    done = subprocess.run([compiler, "-O1", str(made), "-o", str(out), *flags], capture_output=True, check=False)
    return out if done.returncode == 0 else None


def few(where: Path) -> Iterator[Path]:
    """One of each kind of program, with every linker's default and with pages of 2 MiB."""
    for linker, (kind, flags), page in product(_linkers(), KINDS.items(), ("", "2097152")):
        if linker == "bfd" or (kind == "pie" and not page):
            yield from _one(where / f"{linker}-{kind}-{page}", linker, "", page, *flags)


def many(where: Path) -> Iterator[Path]:
    """Every linker, mode, page size and kind; over-aligned variables; options that change segments; 32 bits; musl, Go,
    Rust."""
    for linker, mode, page, (kind, flags) in product(_linkers(), MODES, PAGES, KINDS.items()):
        yield from _one(where / f"{linker}{mode}-{page}-{kind}".replace(",", "_"), linker, mode, page, *flags)
    for aligned, (kind, flags) in product((4096, 65536, 2 << 20, 32 << 20), KINDS.items()):
        yield from _some(compiled(where / f"over-{aligned}-{kind}", f"-DALIGNED={aligned}", *flags))
    odd = ("-Wl,-z,norelro", "-Wl,-z,relro,-z,now", "-Wl,-N", "-Wl,-n", "-zexecstack", "-s", "-Wl,-z,nosectionheader")
    for number, option in enumerate(odd):
        yield from _some(compiled(where / f"option-{number}", option))
    for kind, flags in KINDS.items():
        yield from _some(compiled(where / f"m32-{kind}", "-m32", *flags))
        if shutil.which("musl-gcc"):
            yield from _some(compiled(where / f"musl-{kind}", *flags, compiler="musl-gcc"))
    yield from _other_languages(where)


def _linkers() -> list[str]:
    return [name for name, program in LINKERS.items() if shutil.which(program)]


def _one(out: Path, linker: str, mode: str, page: str, *flags: str) -> Iterator[Path]:
    options = [mode] if mode else []
    options += [f"-Wl,-z,max-page-size={page}"] if page else []
    yield from _some(compiled(out, f"-fuse-ld={linker}", *options, *flags))


def _some(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path


def _other_languages(where: Path) -> Iterator[Path]:
    (where / "g.go").write_text(GO)
    (where / "r.rs").write_text('fn main() { println!("hi"); }\n')
    commands = {
        "go-static": ["go", "build", "-o", "go-static", "g.go"],
        "go-pie": ["go", "build", "-buildmode=pie", "-o", "go-pie", "g.go"],
        "go-external": ["go", "build", "-ldflags=-linkmode=external", "-o", "go-external", "g.go"],
        "rust": ["rustc", "r.rs", "-o", "rust"],
        "rust-exec": ["rustc", "-C", "relocation-model=static", "r.rs", "-o", "rust-exec"],
        "rust-static": ["rustc", "-C", "target-feature=+crt-static", "r.rs", "-o", "rust-static"],
    }
    environment = {**os.environ, "GOCACHE": str(where / "go-cache"), "GOFLAGS": "-mod=mod"}
    for name, command in commands.items():
        if shutil.which(command[0]):
            done = subprocess.run(command, cwd=where, env=environment, capture_output=True, check=False)
            yield from _some(where / name if done.returncode == 0 else None)
