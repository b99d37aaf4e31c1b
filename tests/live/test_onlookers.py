"""live.onlookers: texts by which a file gives away that it looks at its own path."""

import pytest

from elfolio.live.onlookers import text_in


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\0/proc/self/exe\0b", "/proc/self/exe"),
        (b"a\0/proc/%d/exe\0b", "/proc/%d/exe"),
        (b"a\0/proc/%ld/exe\0b", "/proc/%ld/exe"),
        (b"\0self/exe", "self/exe"),
        (b"/proc/curproc/exe", "/proc/curproc/exe"),
        (b"lib/$ORIGIN/x", "$ORIGIN"),
        (b"${ORIGIN}", "${ORIGIN}"),
        (b"\0dlinfo\0", "dlinfo"),
        (b"", ""),
        (b"/proc/self/exec\0/usr/exe\0/self/executor\0dlinfo_x\0ORIGIN", ""),
        (b"/usr/exe\0/proc/self/exe", "/proc/self/exe"),
    ],
)
def test_texts(data: bytes, expected: str) -> None:
    """Those of a program's own path are found, others are not taken for one."""
    assert text_in(data) == expected


def test_dlinfo_of_the_library_that_has_it() -> None:
    """The C library has a function of that name, and does not ask."""
    assert text_in(b"\0dlinfo\0", dlinfo=False) == ""
