"""Object sets for the linkers: small programs and libraries, each for one thing that moves sections or headers.

In: a compiler. Out: object files, and the options that link them.
"""

import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MAIN = "int main(void) { return 0; }\n"

ARTICLE = """
#include <stdio.h>
const int ro = 1;
int w0, w1 = 1;
int *const pw0 = &w0;
int main() { printf("%d %d %d %p\\n", ro, w0, w1, pw0); }
"""

TLS = """
#include <stdio.h>
__thread int a = 1, zero; __thread char wide[100] __attribute__((aligned(64)));
__thread long later __attribute__((aligned(16))) = 3;
int main(void) { printf("%p %d %d %ld\\n", (void *)wide, a, zero, later); return wide[1]; }
"""

TBSS = "__thread long zero[3] __attribute__((aligned(32))); int main(void) { return (int)zero[1]; }\n"

CPP = """
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
struct Early { Early() { std::cout << "early\\n"; } ~Early() { std::cout << "late\\n"; } } early;
struct Base { virtual ~Base() {} virtual int f() { return 1; } };
struct Derived : Base { int f() override { return 2; } };
std::map<std::string, int> table{{"a", 1}, {"b", 2}};
int main(int argc, char **) {
  try { if (argc > 1) throw std::runtime_error("x"); } catch (std::exception &e) { std::cout << e.what(); }
  Base *b = argc > 2 ? new Base : new Derived;
  return b->f() + table["a"];
}
"""

IFUNC = """
#include <string.h>
static int one(void) { return 1; }
static int (*resolve(void))(void) { return one; }
int chosen(void) __attribute__((ifunc("resolve")));
static char to[300], from[300];
int main(int argc, char **argv) { memcpy(to, from, (unsigned long)argc); return chosen() + to[1] - (argv == 0); }
"""

BSS = "static char big[5000001]; int small = 1; int main(int c, char **v) { return big[c * 9999] + small + !v; }\n"

UNUSED = """
int unused_table[1000] = {1}; void unused(void) { unused_table[1]++; }
const char *const names[] = {"one", "two", "three"};
static int used(int i) { return names[i % 3][0]; }
int main(int c, char **v) { return used(c) + !v; }
"""

LIBRARY = """
#include <stdlib.h>
int counter; const char *const words[] = {"a", "b"}; static void *(*hook)(size_t) = malloc;
__thread int mine = 4;
__attribute__((constructor)) static void begin(void) { counter = 3; }
void *f(int n) { counter += n; return hook((size_t)n + mine); }
const char *g(int n) { return words[n & 1]; }
"""

POINTERS = """
static int x; int y;
int *const fixed[300] = {[0 ... 299] = &x};
int *free_[300] = {&y, [7] = &x, &x, [100] = &y, [299] = &x};
int main(int c, char **v) { return *fixed[c] + *free_[c] + !v; }
"""

OVER_ALIGNED = """
int d __attribute__((aligned(8192))) = 1; char big[70000] __attribute__((aligned(65536)));
int main(void) { return d + big[5]; }
"""

OVER_ALIGNED_READ_ONLY = """
const char table[100] __attribute__((aligned(16384))) = "x";
__attribute__((aligned(32768))) int aligned_code(int c) { return table[c]; }
int main(int c, char **v) { return aligned_code(c) + !v; }
"""

OVER_ALIGNED_RELRO = """
int y; int *const fixed[5] __attribute__((aligned(16384))) = {&y};
__thread long t __attribute__((aligned(4096))) = 3;
int main(int c, char **v) { return *fixed[c] + (int)t + !v; }
"""

NOTES = """
.section .note.one,"a",@note
.balign 4
.long 4, 4, 1, 0x00313233, 7
.section .note.two,"a",@note
.balign 8
.long 4, 8, 2, 0x00313233, 7, 7
.section .note.three,"a",@note
.balign 4
.long 4, 4, 3, 0x00313233, 9
.section .note.GNU-stack,"",@progbits
"""

NOTHING_BUT_CODE = '__asm__(".globl _start\\n_start: .long 0\\n");\n'

CODE_AND_ZEROS = """
char zeros[12345]; long word = 5;
void _start(void) { zeros[3] = (char)word; for (;;); }
"""

CUSTOM = """
__attribute__((section("mydata"))) int mine = 2; __attribute__((section("mycode"))) int run(void) { return 1; }
__attribute__((section("myconst"))) const int fixed = 3; __attribute__((section("myzeros,\\"aw\\",@nobits#"))) int z;
extern int __start_mydata[], __stop_mydata[];
int main(void) { return mine + run() + fixed + z + (int)(__stop_mydata - __start_mydata); }
"""

LARGE = """
static int far[100000]; int ldata[200000] = {1}; const int lconst[200000] = {2}; int near_ = 4;
int main(int c, char **v) { return far[c] + ldata[c] + lconst[c] + near_ + !v; }
"""

DATA_ONLY = "int only = 1; int zero; const int fixed[] = {1, 2, 3};\n"


@dataclass(frozen=True)
class ObjectSet:
    """What is compiled, with which compiler's options, and what it is linked with."""

    name: str
    source: str
    compile: tuple[str, ...] = ()
    link: tuple[str, ...] = ()
    suffix: str = ".c"
    compiler: str = "gcc"
    more: str = ""
    """A second source, in assembly."""
    everyday: bool = False
    only: str = ""
    """`lld` or `ld`, where the other one has no such option or does not do the same."""


def _wl(*options: str) -> tuple[str, ...]:
    return tuple("-Wl," + option for option in options)


_BARE = ("-nostdlib", "-static")

SETS = (
    ObjectSet("article", ARTICLE, ("-fpie",), ("-pie",), everyday=True),
    ObjectSet("tls", TLS, ("-fpie",), ("-pie",), everyday=True),
    ObjectSet("tbss", TBSS, ("-fno-pie",), ("-no-pie",)),
    ObjectSet("tls-static", TLS, ("-fno-pie",), ("-static",)),
    ObjectSet("cpp", CPP, ("-O2", "-fpie"), ("-pie",), ".cc", "g++", everyday=True),
    ObjectSet("cpp-static-debug", CPP, ("-g",), ("-static",), ".cc", "g++"),
    ObjectSet("ifunc-static", IFUNC, ("-O1", "-fno-pie"), ("-static",), everyday=True),
    ObjectSet("ifunc-static-pie", IFUNC, ("-O1", "-fpie"), ("-static-pie",)),
    ObjectSet("bss", BSS, ("-fno-pie",), ("-no-pie",)),
    ObjectSet("gc", UNUSED, ("-ffunction-sections", "-fdata-sections"), ("-pie", *_wl("--gc-sections"))),
    ObjectSet("library", LIBRARY, ("-fPIC", "-O2"), ("-shared", *_wl("--hash-style=both")), everyday=True),
    ObjectSet("library-sysv", LIBRARY, ("-fPIC",), ("-shared", *_wl("--hash-style=sysv,-soname,libx.so.1,-z,now"))),
    ObjectSet("debug", ARTICLE, ("-g3", "-fpie"), ("-pie", *_wl("--build-id=sha1"))),
    ObjectSet("no-build-id", UNUSED, ("-O2",), ("-pie", *_wl("--build-id=none"))),
    ObjectSet("now", CPP, ("-fpie",), ("-pie", *_wl("-z,now")), ".cc", "g++"),
    ObjectSet("lazy", UNUSED, ("-fpie",), ("-pie", *_wl("-z,lazy"))),
    ObjectSet(
        "relr", POINTERS, ("-fpie", "-O1"), ("-pie", *_wl("--pack-dyn-relocs=relr")), everyday=True, only="lld"
    ),
    ObjectSet(
        "relr-ld", POINTERS, ("-fpie", "-O1"), ("-pie", *_wl("-z,pack-relative-relocs")), everyday=True, only="ld"
    ),
    ObjectSet("nognustack", MAIN, (), ("-pie", *_wl("-z,nognustack")), only="lld"),
    ObjectSet("execstack", MAIN, (), ("-pie", *_wl("-z,execstack,-z,stack-size=1048576"))),
    ObjectSet("over-aligned", OVER_ALIGNED, ("-fpie",), ("-pie",), everyday=True),
    ObjectSet("over-aligned-read-only", OVER_ALIGNED_READ_ONLY, ("-fpie",), ("-pie",)),
    ObjectSet("over-aligned-relro", OVER_ALIGNED_RELRO, ("-fpie",), ("-pie",)),
    ObjectSet("notes", ARTICLE, ("-fpie",), ("-pie",), more=NOTES),
    ObjectSet("stripped", CPP, ("-O2", "-fpie"), ("-pie", "-s"), ".cc", "g++"),
    ObjectSet("nothing-but-code", NOTHING_BUT_CODE, ("-fno-asynchronous-unwind-tables",), _BARE),
    ObjectSet("code-and-zeros", CODE_AND_ZEROS, ("-fno-pie",), _BARE),
    ObjectSet("custom", CUSTOM, ("-fpie",), ("-pie",)),
    ObjectSet("norelro", ARTICLE, ("-fpie",), ("-pie", *_wl("-z,norelro"))),
    ObjectSet("norelro-tls", TLS, ("-fno-pie",), ("-no-pie", *_wl("-z,norelro"))),
    ObjectSet("large", LARGE, ("-mcmodel=medium", "-fno-pie"), ("-no-pie",), only="lld"),
    ObjectSet("data-only", DATA_ONLY, ("-fPIC",), ("-shared", "-nostdlib")),
    ObjectSet("i386", CODE_AND_ZEROS, ("-m32", "-fno-pie"), ("-m32", *_BARE)),
    ObjectSet("aarch64", CODE_AND_ZEROS, (), _BARE, compiler="aarch64-linux-gnu-gcc", only="lld"),
    ObjectSet("aarch64-library", POINTERS, ("-fPIC",), ("-shared", "-nostdlib"), compiler="aarch64-linux-gnu-gcc",
              only="lld"),
)  # fmt: skip


@cache
def why_not(compiler: str) -> str | None:
    """Why this compiler cannot be used here."""
    package = {"g++": "g++", "gcc": "gcc"}.get(compiler, f"gcc-{compiler.removesuffix('-gcc')}")
    return None if shutil.which(compiler) else f"needs {compiler}; to force: apt-get install {package}"


def compiled(objects: ObjectSet, directory: Path) -> tuple[Path, ...]:
    """The object files; AssertionError with the compiler's words where it refuses."""
    sources = [(objects.source, objects.suffix)] + ([(objects.more, ".s")] if objects.more else [])
    made = []
    for number, (text, suffix) in enumerate(sources):
        source = directory / f"{objects.name}-{number}{suffix}"
        source.write_text(text)
        made.append(source.with_suffix(".o"))
        run(objects.compiler, "-c", *objects.compile, "-w", str(source), "-o", str(made[-1]))
    return tuple(made)


def run(*command: str) -> str:
    """Its standard output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"
    return done.stdout
