"""tests.tune.built: programs of every kind that linkers make. In: a folder. Out: Sample, one for each kind.

What a kind needs and this machine lacks is given as a reason, never left out in silence.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("exercise.c")
LIBRARY = (
    'int shared = 3; static const char *const words[] = {"a", "b"}; int f(int i) { return words[i & 1][0] + shared; }'
)
GO = 'package main\nimport ("fmt"; "os")\nfunc main() { fmt.Println("go", len(os.Args)); os.Exit(7) }\n'
RUST = 'fn main() { println!("rust {}", std::env::args().count()); std::process::exit(7) }\n'
SCRIPT = """\
SECTIONS {
  . = 0x10000 + SIZEOF_HEADERS;
  .text : { *(.text*) }
  .rodata : { *(.rodata*) }
  . = ALIGN(0x1000);
  .data : { *(.data*) }
  .bss : { *(.bss*) *(COMMON) }
}
"""
BARE = 'void _start(void) { __asm__ volatile("mov $60, %eax; mov $7, %edi; syscall"); } int data = 1; int bss[4000];'


class Lacking(Exception):
    """What this machine lacks for a kind, and how to get it."""


@dataclass(frozen=True)
class Kind:
    """A kind of file, and how one is made."""

    name: str
    make: Callable[[Path], Path]
    runs: str = ""
    """What runs it here: "native", an emulator's command, or nothing."""
    library: bool = False


def _tool(command: list[str | Path], folder: Path, text: str | None = None, **environment: str) -> None:
    if shutil.which(str(command[0])) is None:
        raise Lacking(f"needs {command[0]}; to force: apt-get install it")
    done = subprocess.run(
        command,
        input=text,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        raise Lacking(f"{' '.join(map(str, command))}: {done.stderr.strip()[-300:]}; to force: install what it misses")


def _c(*options: str, compiler: str = "gcc", source: str | None = None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        out = folder / "made"
        given: list[str | Path] = [SOURCE] if source is None else ["-x", "c", "-"]
        _tool([compiler, "-w", "-O1", "-o", out, *given, *options], folder, source)
        return out

    return make


def _bulk(*options: str, compiler: str = "gcc", mebibytes: int = 5) -> Callable[[Path], Path]:
    """A program with so much text that huge pages are worth it."""

    def make(folder: Path) -> Path:
        out = folder / "made"
        header = (
            f'__asm__(".text\\n.globl pad\\npad: .fill {mebibytes << 20}, 1, 0xc3\\n.previous\\n");\n'
            "extern char pad[];\n#if defined __i386__ || defined __x86_64__\n"
            "static int bulk(int i) { ((void (*)(void))(pad + i * 4096))(); return 5; }\n#else\n"
            "static int bulk(int i) { return ((volatile unsigned char *)pad)[i * 4096] == 0xc3 ? 5 : 0; }\n#endif\n"
        )
        (folder / "bulk.h").write_text(header)
        _tool([compiler, "-w", "-O1", "-DBULK", f"-I{folder}", "-o", out, SOURCE, *options], folder)
        return out

    return make


def _go(folder: Path) -> Path:
    (folder / "main.go").write_text(GO)
    cache = {"GOCACHE": str(folder / "cache"), "GO111MODULE": "off", "GOPATH": str(folder / "path")}
    _tool(["go", "build", "-o", folder / "made", "main.go"], folder, **cache)
    return folder / "made"


def _go_pie(folder: Path) -> Path:
    (folder / "main.go").write_text(GO)
    cache = {"GOCACHE": str(folder / "cache"), "GO111MODULE": "off", "GOPATH": str(folder / "path")}
    _tool(["go", "build", "-buildmode=pie", "-ldflags=-s -w", "-o", folder / "made", "main.go"], folder, **cache)
    return folder / "made"


def _rust(*options: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "main.rs").write_text(RUST)
        _tool(["rustc", *options, "-o", folder / "made", folder / "main.rs"], folder)
        return folder / "made"

    return make


def _stripped(folder: Path) -> Path:
    out = _bulk()(folder)
    _tool(["strip", out], folder)
    return out


def _debug_file(folder: Path) -> Path:
    out = _c("-g3")(folder)
    _tool(["objcopy", "--only-keep-debug", out, folder / "made.debug"], folder)
    return folder / "made.debug"


def _sectionless(folder: Path) -> Path:
    out = _c()(folder)
    _tool(["llvm-strip", "--strip-sections", out], folder)
    return out


def _scripted(folder: Path) -> Path:
    (folder / "script.ld").write_text(SCRIPT)
    return _c(*_BARE, "-Wl,-T,script.ld", source=BARE)(folder)


def _patched(folder: Path) -> Path:
    """What patchelf leaves: a segment more, and sections out of order."""
    out = _c()(folder)
    _tool(["patchelf", "--set-rpath", "/nowhere/" + "x" * 500, out], folder)
    return out


def _core(folder: Path) -> Path:
    out = _c("-g")(folder)
    commands = ["-batch", "-ex", "break main", "-ex", "run", "-ex", f"generate-core-file {folder}/made.core"]
    _tool(["gdb", *commands, out], folder)
    return folder / "made.core"


_BARE = ("-static", "-nostdlib", "-fno-pie", "-no-pie", "-fno-stack-protector", "-Wl,--build-id=none")
_LLD19 = ("-B/usr/lib/llvm-19/bin", "-fuse-ld=lld")
_CROSS = {
    "i386": ("i686-linux-gnu", "qemu-i386-static"),
    "ppc": ("powerpc-linux-gnu", "qemu-ppc-static"),
    "ppc64le": ("powerpc64le-linux-gnu", "qemu-ppc64le-static"),
    "mips": ("mips-linux-gnu", "qemu-mips-static"),
    "s390x": ("s390x-linux-gnu", "qemu-s390x-static"),
    "armhf": ("arm-linux-gnueabihf", "qemu-arm-static"),
    "aarch64": ("aarch64-linux-gnu", "qemu-aarch64-static"),
    "riscv64": ("riscv64-linux-gnu", "qemu-riscv64-static"),
}


def _native() -> Iterator[Kind]:
    options: dict[str, tuple[str, ...]] = {
        "pie": (),
        "exec": ("-no-pie",),
        "static": ("-static",),
        "static-pie": ("-static-pie",),
        "debug": ("-g3",),
        "debug-compressed": ("-g3", "-gz=zlib"),
        "noseparate-code": ("-Wl,-z,noseparate-code",),
        "norelro": ("-Wl,-z,norelro",),
        "lazy": ("-Wl,-z,lazy",),
        "nognustack": ("-Wl,-z,nognustack",),
        "execstack": ("-Wl,-z,execstack",),
        "align-64k": ("-Wl,-z,max-page-size=65536",),
        "align-2m": ("-Wl,-z,max-page-size=2097152",),
        "gold": ("-fuse-ld=gold",),
        "gold-exec": ("-fuse-ld=gold", "-no-pie"),
        "gold-static": ("-fuse-ld=gold", "-static"),
        "mold": ("-fuse-ld=mold",),
        "mold-exec": ("-fuse-ld=mold", "-no-pie"),
        "lld-14": ("-fuse-ld=lld",),
        "lld-14-exec": ("-fuse-ld=lld", "-no-pie"),
        "lld-14-no-rosegment": ("-fuse-ld=lld", "-Wl,--no-rosegment"),
        "lld-14-separate-loadable": ("-fuse-ld=lld", "-Wl,-z,separate-loadable-segments"),
        "lld-14-separate-code": ("-fuse-ld=lld", "-Wl,-z,separate-code"),
        "lld-19": _LLD19,
        "lld-19-64k": (*_LLD19, "-Wl,-z,max-page-size=65536"),
        "lld-19-static": (*_LLD19, "-static"),
        "lld-19-relr": (*_LLD19, "-Wl,-z,pack-relative-relocs"),
        "sysv-hash": ("-Wl,--hash-style=sysv",),
        "emit-relocs": ("-Wl,-q",),
        "no-build-id": ("-Wl,--build-id=none",),
        "image-base": ("-no-pie", "-Wl,-Ttext-segment=0x10000000"),
    }
    for name, given in options.items():
        yield Kind(name, _c(*given), "native")
    bulky: dict[str, tuple[str, ...]] = {
        "bulk": (),
        "bulk-exec": ("-no-pie",),
        "bulk-static": ("-static",),
        "bulk-static-pie": ("-static-pie",),
        "bulk-debug": ("-g3",),
        "bulk-lld-14": ("-fuse-ld=lld",),
        "bulk-lld-19": _LLD19,
        "bulk-lld-exec": ("-fuse-ld=lld", "-no-pie"),
        "bulk-lld-no-rosegment": ("-fuse-ld=lld", "-Wl,--no-rosegment"),
        "bulk-mold": ("-fuse-ld=mold",),
        "bulk-gold": ("-fuse-ld=gold",),
        "bulk-noseparate-code": ("-Wl,-z,noseparate-code",),
        "bulk-align-2m": ("-Wl,-z,max-page-size=2097152",),
    }
    for name, given in bulky.items():
        yield Kind(name, _bulk(*given), "native")


def kinds() -> list[Kind]:
    """All of them."""
    found = [*_native()]
    found += [
        Kind("bulk-stripped", _stripped, "native"),
        Kind("sectionless", _sectionless, "native"),
        Kind("patchelf-ed", _patched, "native"),
        Kind("linker-script", _scripted, "native"),
        Kind("omagic", _c(*_BARE, "-Wl,-N", source=BARE), "native"),
        Kind("nmagic", _c(*_BARE, "-Wl,-n", source=BARE), "native"),
        Kind("go", _go, "native"),
        Kind("go-pie-stripped", _go_pie, "native"),
        Kind("rust", _rust(), "native"),
        Kind("rust-lto", _rust("-O", "-C", "lto"), "native"),
        Kind("musl", _c("-DNO_IFUNC", compiler="musl-gcc"), "native"),
        Kind("musl-static", _c("-DNO_IFUNC", "-static", compiler="musl-gcc"), "native"),
        Kind("clang", _c(compiler="clang"), "native"),
        Kind("m32-static", _c("-static", compiler="i686-linux-gnu-gcc"), "native"),
        Kind("shared", _c("-shared", "-fPIC", source=LIBRARY), library=True),
        Kind("shared-lld", _c("-shared", "-fPIC", "-fuse-ld=lld", source=LIBRARY), library=True),
        Kind("shared-mold", _c("-shared", "-fPIC", "-fuse-ld=mold", source=LIBRARY), library=True),
        Kind("object", _c("-c", source=LIBRARY)),
        Kind("debug-file", _debug_file),
        Kind("core", _core),
    ]
    for name, (triple, emulator) in _CROSS.items():
        extra = ("-DNO_IFUNC",) if name in ("mips", "riscv64") else ()
        found += [
            Kind(name, _c(*extra, compiler=f"{triple}-gcc"), f"{emulator} -L /usr/{triple}"),
            Kind(f"{name}-static", _c("-static", *extra, compiler=f"{triple}-gcc"), emulator),
            Kind(f"{name}-bulk", _bulk("-static", *extra, compiler=f"{triple}-gcc"), emulator),
        ]
    return found
