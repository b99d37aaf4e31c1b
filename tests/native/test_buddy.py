"""The buddy allocator's core without Python: its arrays, under AddressSanitizer and UBSan."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.native.test_native import HERE, NATIVE, SANITIZE

SOURCES = ("buddy.c", "buddy_compact.c", "buddy_map.c")


@pytest.mark.parametrize("flags", [SANITIZE, ("-O2",)], ids=["sanitized", "plain"])
def test_the_arrays_agree_after_every_random_course(flags: tuple[str, ...], tmp_path: Path) -> None:
    """Lists, blocks, counts and types agree whatever is asked in whatever order; nothing is read or written beside
    the arrays, and nothing leaks."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc; to force: apt-get install gcc libc6-dev")
    out = tmp_path / "driver"
    sources = (HERE / "buddy_driver.c", *(NATIVE / name for name in SOURCES))
    built = subprocess.run(
        ["gcc", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I", NATIVE, *flags, "-o", out, *sources],
        check=False,
        capture_output=True,
        text=True,
    )
    if "asan" in built.stderr and built.returncode:
        pytest.skip("needs the sanitizers' libraries; to force: apt-get install libasan8 libubsan1")
    assert built.returncode == 0, built.stderr
    environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1", "LD_PRELOAD": ""}
    done = subprocess.run([out], check=False, capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
