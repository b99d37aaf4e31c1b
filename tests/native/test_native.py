"""The C core without Python: its buffers, bounds and launches, under AddressSanitizer and UBSan."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent.parent / "native"
SOURCES = ("capture.c", "launch.c", "proxy.c", "sink.c", "status.c", "steps.c")
SANITIZE = ("-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined")
TESTS = (
    *("sink", "spill-error", "sink-is-bounded", "capture", "capture-without-reader", "capture-deadline"),
    *("step-bounds", "run-steps", "launch"),
)


@pytest.fixture(scope="module", params=["sanitized", "plain"])
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver, compiled with the core's own sources."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc; to force: apt-get install gcc libc6-dev")
    out = tmp_path_factory.mktemp("driver") / "driver"
    flags = SANITIZE if request.param == "sanitized" else ("-O2",)
    done = subprocess.run(
        [
            *("gcc", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread", "-I", NATIVE, *flags, "-o", out),
            *(HERE / "driver.c", *(NATIVE / name for name in SOURCES)),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if "asan" in done.stderr and done.returncode:
        pytest.skip("needs the sanitizers' libraries; to force: apt-get install libasan8 libubsan1")
    assert done.returncode == 0, done.stderr
    return out


def test_every_test_of_the_driver_is_run(driver: Path) -> None:
    """The driver has no test that is not listed here."""
    assert subprocess.check_output([driver], text=True).split() == list(TESTS)


@pytest.mark.parametrize("name", TESTS)
def test_the_core(name: str, driver: Path) -> None:
    """The C core holds against the driver's models, without a leak or a report of a sanitizer."""
    environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1", "LD_PRELOAD": ""}
    done = subprocess.run([driver, name], check=False, capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
