"""The C extension elfolio._native and the stub of warm templates; all else about the package is in pyproject.toml.

ELFOLIO_WERROR=1 turns the compiler's warnings into errors.
ELFOLIO_SANITIZE=1 builds for AddressSanitizer and UBSan.
"""

import os
import shutil
import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CFLAGS = ["-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
# Python's own flags, which come first, define signed overflow and drop asserts: both would hide faults.
UNHIDE = ["-fno-wrapv", "-UNDEBUG"]


# The stub is copied into other programs as it is (native/warm/*.c): no C library, no relocation, and none of what
# a compiler adds that would need either.
STUB_CFLAGS = [
    *("-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-fno-jump-tables"),
    *("-fno-asynchronous-unwind-tables", "-fno-lto", "-fno-sanitize=all", "-fno-tree-loop-distribute-patterns"),
]
STUB_LDFLAGS = [
    *("-nostdlib", "-fno-lto", "-Wl,--build-id=none", "-Wl,-Bsymbolic", "-Wl,-z,noseparate-code"),
    *("-Wl,-z,norelro", "-Wl,--no-undefined"),
]
STUB_CFLAGS_OF = {"x86_64": ["-fcf-protection=none"], "aarch64": ["-mno-outline-atomics"]}
STUB_LDFLAGS_OF = {"aarch64": ["-Wl,-z,max-page-size=65536"]}  # code and data never share a page
STUB = "elfolio._stub"


class BuildNative(build_ext):
    """build_ext that names the missing Debian package in one line before the compiler is tried."""

    def build_extensions(self) -> None:
        compiler = self.compiler.compiler_so[0]
        if shutil.which(compiler) is None:
            sys.exit(f"elfolio: no C compiler ({compiler}); on Debian: apt-get install gcc")
        include_dirs = [*self.include_dirs, *self.compiler.include_dirs]
        if not any(os.path.exists(os.path.join(path, "Python.h")) for path in include_dirs):
            sys.exit("elfolio: no Python.h for this Python; on Debian: apt-get install python3-dev")
        # By the platform that is built for, which with a cross compiler is not this one.
        machine = self.plat_name.rpartition("-")[2]
        for extension in self.extensions:
            if extension.name == STUB:
                extension.extra_compile_args += STUB_CFLAGS_OF.get(machine, [])
                extension.extra_link_args += STUB_LDFLAGS_OF.get(machine, [])
        super().build_extensions()


def native() -> Extension:
    """The extension, with flags as the environment asks."""
    werror = ["-Werror"] if os.environ.get("ELFOLIO_WERROR") == "1" else []
    sanitize = SANITIZE + UNHIDE if os.environ.get("ELFOLIO_SANITIZE") == "1" else []
    return Extension(
        "elfolio._native",
        sources=sorted(glob("native/*.c")),
        depends=sorted(glob("native/*.h") + glob("native/warm/*.h")),
        include_dirs=["native"],
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        py_limited_api=True,
        extra_compile_args=CFLAGS + werror + sanitize,
        extra_link_args=sanitize,
    )


def stub() -> Extension:
    """The stub, under an extension's name because that is how setuptools builds a shared object."""
    werror = ["-Werror"] if os.environ.get("ELFOLIO_WERROR") == "1" else []
    return Extension(
        STUB,
        sources=[*sorted(glob("native/warm/*.c")), "native/steps.c"],
        depends=sorted(glob("native/*.h") + glob("native/warm/*.h")),
        include_dirs=["native"],
        py_limited_api=True,
        extra_compile_args=CFLAGS + STUB_CFLAGS + werror,
        extra_link_args=STUB_LDFLAGS,
    )


if sys.platform != "linux":
    sys.exit(f"elfolio: runs on Linux only; this is {sys.platform}")

SHARED = ("share/man/man1", "share/bash-completion/completions", "share/zsh/site-functions")

setup(
    data_files=[(folder, sorted(glob(f"{folder}/*"))) for folder in SHARED],
    ext_modules=[native(), stub()],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
