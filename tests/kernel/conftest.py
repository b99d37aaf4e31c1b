"""Fixtures of the kernel room's tests: the program that does memory operations for an oracle."""

from pathlib import Path

import pytest

from tests.kernel.oracle import build_driver


@pytest.fixture(scope="session")
def mm_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mm_driver, built once; a skip where it cannot be."""
    return build_driver(tmp_path_factory.mktemp("mm_driver"))
