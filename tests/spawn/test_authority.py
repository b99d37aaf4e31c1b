"""Authority: a template serves nobody but the one who made it, as he was then."""

import errno
from typing import Any

import pytest

from tests.spawn.probing import in_fresh_host

pytestmark = pytest.mark.root

CHANGES: list[tuple[str, str]] = [
    ("os.setresuid(65534, 65534, 65534)", "ids"),
    ("os.setresuid(-1, 65534, -1)", "ids"),
    ("os.setresuid(-1, -1, 65534)", "ids"),
    ("os.setresgid(-1, 65534, -1)", "ids"),
    ("os.setresgid(-1, -1, 65534)", "ids"),
    ("libc.setfsuid(65534)", "ids"),
    ("libc.setfsgid(65534)", "ids"),
    ("os.setgroups([1, 2])", "supplementary groups"),
    ("os.setgroups(range(300))", "supplementary groups"),
    ("libc.prctl(24, 21, 0, 0, 0)", "capabilities"),  # PR_CAPBSET_DROP, CAP_SYS_ADMIN
    ("libc.prctl(28, 1 << 1, 0, 0, 0)", "securebits"),  # PR_SET_SECUREBITS, SECBIT_NOROOT_LOCKED
    ("libc.prctl(38, 1, 0, 0, 0)", "no_new_privs"),  # PR_SET_NO_NEW_PRIVS
    ("capset(effective=0)", "capabilities"),
    ("capset(inheritable=1)", "capabilities"),
    ("(capset(inheritable=1), libc.prctl(47, 2, 0, 0, 0))", "capabilities"),  # PR_CAP_AMBIENT_RAISE
]


def change_and_spawn(change: str, where: str) -> list[Any]:
    """Makes a template, changes this process's or another thread's credentials, and says what a spawn says.

    `where`: "same" thread, or a new "thread" that changes only itself, with the maker's spawn afterwards.
    """
    import ctypes
    import os
    import struct
    import subprocess  # noqa: F401
    import threading

    import elfolio

    libc = ctypes.CDLL(None)

    def capset(effective: int = -1, inheritable: int = 0) -> None:
        head = struct.pack("II", 0x20080522, 0)
        data = ctypes.create_string_buffer(24)
        libc.capget(head, data)
        words = list(struct.unpack("6I", data.raw))
        for half in (0, 3):
            words[half] = words[half] if effective < 0 else effective
        words[2] |= inheritable
        assert libc.capset(head, struct.pack("6I", *words)) == 0

    template = elfolio.SpawnTemplate("/bin/true")
    assert template.spawn(["true"]).wait() == 0
    said: list[Any] = []

    def attempt(changes: bool) -> None:
        try:
            if changes:
                eval(change, {"os": os, "libc": libc, "capset": capset, "range": range})
            said.append(template.spawn(["true"]).wait())
        except OSError as error:
            said.extend((type(error).__name__, error.errno, error.strerror))

    if where == "thread":
        thread = threading.Thread(target=attempt, args=(True,))
        thread.start()
        thread.join()
        attempt(False)
    else:
        attempt(True)
    return said


@pytest.mark.parametrize(("change", "what"), CHANGES)
def test_changed_credentials_are_refused(change: str, what: str) -> None:
    """Once ids, groups, capabilities, securebits or no_new_privs differ: PermissionError, EACCES, naming them."""
    kind, number, text = in_fresh_host(change_and_spawn, change, "same")
    assert (kind, number) == ("PermissionError", errno.EACCES)
    assert what in text
    assert "make a new one" in text


@pytest.mark.parametrize("change", ["libc.setfsuid(65534)", "capset(effective=0)", "libc.prctl(38, 1, 0, 0, 0)"])
def test_authority_is_the_threads(change: str) -> None:
    """A thread that changed its own credentials is refused; the maker's thread goes on."""
    said = in_fresh_host(change_and_spawn, change, "thread")
    assert said[:2] == ["PermissionError", errno.EACCES]
    assert said[3:] == [0]


@pytest.mark.parametrize("change", ["None", "os.setgroups(os.getgroups())", "os.setresuid(0, 0, 0)"])
def test_unchanged_credentials_are_not(change: str) -> None:
    """Setting what is so already changes nothing."""
    assert in_fresh_host(change_and_spawn, change, "same") == [0]


def test_credentials_changed_and_changed_back() -> None:
    """A host that lowers its effective id and takes it back may go on with its template."""

    def host() -> list[Any]:
        import os

        import elfolio

        template = elfolio.SpawnTemplate("/bin/true")
        said: list[Any] = []
        for uid in (0, 65534, 0):
            os.seteuid(uid)
            try:
                said.append(template.spawn(["true"]).wait())
            except PermissionError:
                said.append("refused")
        return said

    assert in_fresh_host(host) == [0, "refused", 0]


def test_a_label_that_cannot_be_asked_for() -> None:
    """Where lsm_get_self_attr is missing, templates work and stay with their maker all the same."""

    def host() -> list[Any]:
        import os

        import elfolio
        from tests.spawn.seccomp import ENOSYS, deny

        deny(("lsm_get_self_attr", ENOSYS))
        template = elfolio.SpawnTemplate("/bin/true")
        said: list[Any] = [template.spawn(["true"]).wait()]
        os.setresuid(65534, 65534, 65534)
        try:
            template.spawn(["true"])
        except PermissionError as error:
            said.append(error.errno)
        return said

    assert in_fresh_host(host) == [0, errno.EACCES]
