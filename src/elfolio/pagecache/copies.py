"""pagecache.copies: a program's tuned copy in the user's cache. In: the program, open. Out: Copy, or Untuned.

A copy is made once, in large pieces, by `pagecache.tuning`, and filled by `pagecache.warm`. It is used again while it
is the one that was made: by its own identity, which any write, chmod or link changes, and by the undo record in it,
which has the original's checksum. The name of its entry is made of the original's identity.
"""

import fcntl
import hashlib
import mmap
import os
import stat
import time
from dataclasses import dataclass
from typing import Any

from elfolio.elf.undo import find_record
from elfolio.errors import ElfError
from elfolio.layout.hugepages import Tier
from elfolio.live.host import policy_here
from elfolio.live.onlookers import onlooker
from elfolio.live.opened import opened
from elfolio.pagecache.store import RECORD, Store, Untuned, key_of
from elfolio.pagecache.tuning import Differs, Subject, Wishes, examined, write
from elfolio.pagecache.warm import Outcome, Warmed, warm

__all__ = ["ALIGNED", "Copy", "obtain", "refill"]

_VERSION = 1
_MODE = 0o555
_TRIES = 3
_NAME_MOST = 200
ALIGNED = "already aligned"
POINTLESS = "no huge folios"
_POINTLESS_FOR = 3600.0
"""Seconds that this is believed: it is found by trial, and what was not free may be."""
APPARMOR = ("/sys/module/apparmor/parameters/enabled", "/etc/apparmor.d")
"""Where it is said that profiles are attached to programs by their paths, and where these profiles usually are."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy, open; its user closes it."""

    fd: int
    """For reading, above the standard streams; a shared lock on it (flock) keeps the cache from removing it."""
    path: str
    key: tuple[int, ...]
    """Its identity, in the order of `_native.Image.key`."""
    won: int
    """Blocks that can be huge mappings and could not in the original."""
    random_bits_lost: int
    """Of the load address."""
    warmed: Warmed
    """Its page cache."""


def obtain(fd: int, key: tuple[int, ...]) -> Copy:
    """The copy of the program that is open at `fd` and whose identity is `key`; made, if there is none yet. Raises
    Untuned, for every reason not to have one: errors of files among them."""
    try:
        with Store() as store:
            return _obtain(store, fd, key)
    except (OSError, ElfError, Differs) as error:
        word = "format" if isinstance(error, (ElfError, Differs)) else "cannot be written"
        raise Untuned(word, str(error)) from error


def _obtain(store: Store, fd: int, key: tuple[int, ...]) -> Copy:
    if os.fstatvfs(store.fd).f_flag & os.ST_NOEXEC:
        raise Untuned("the copy is refused", f"{store.path} is on a file system mounted noexec")
    entry = hashlib.sha256(repr((_VERSION, os.uname().release, key)).encode()).hexdigest()[:32]
    try:
        found = _use(store, entry, key)
        for _ in range(_TRIES):
            if found is not None:
                return found
            with store.locked():
                found = _use(store, entry, key)
                if found is None:
                    store.discard(entry)  # one that was changed, or of which a part is gone
                    _make(store, entry, fd, key)
                    store.tidy(entry)
                    found = _use(store, entry, key)
    except Untuned as untuned:
        if untuned.reason == ALIGNED:
            warm(f"/proc/self/fd/{fd}")
        raise
    if found is None:
        raise Untuned("changing")
    return found


# --- one that is there -----------------------------------------------------------------------------------


def _use(store: Store, entry: str, key: tuple[int, ...]) -> Copy | None:
    """The entry's copy, if it is the one that was made; raises Untuned where the entry says why there is none."""
    record = store.record(entry)
    if record is None or record.get("key") != list(key) or not _libraries_stand(record):
        return None
    store.used(entry)
    verdict = _verdict(record)
    if verdict is not None:
        raise verdict
    try:
        name = os.path.basename(record["name"])
        where = f"{entry}/{name}"
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=store.fd)
    except (OSError, KeyError, TypeError):
        return None
    fd = _above_streams(fd)
    try:
        status = os.fstat(fd)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if not _is_ours(status) or list(key_of(status)) != record["copy"] or _original(fd) != record["original"]:
            os.close(fd)
            return None
        warmed = warm(f"/proc/self/fd/{fd}")
        return Copy(fd, f"{store.path}/{where}", key_of(status), int(record["won"]), int(record["bits"]), warmed)
    except (OSError, ElfError, KeyError, TypeError, ValueError):
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise


def _verdict(record: dict[str, Any]) -> Untuned | None:
    try:
        reason, detail = map(str, record.get("untuned") or ())
        fresh = 0 <= time.time() - float(record["made"]) < _POINTLESS_FOR
    except (KeyError, TypeError, ValueError):
        return None
    return Untuned(reason, detail, lasts=True) if fresh or reason != POINTLESS else None


def _is_ours(status: os.stat_result) -> bool:
    wanted = stat.S_IFREG | _MODE
    return status.st_mode == wanted and status.st_uid == os.geteuid() and status.st_nlink == 1


def _original(fd: int) -> str:
    """The checksum of what a file was made of, by the record in it; "" without one."""
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data, memoryview(data) as view:
        found = find_record(view)
        return "" if found is None else found.record.original.hex()


def _above_streams(fd: int) -> int:
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def _libraries_stand(record: dict[str, Any]) -> bool:
    """Whether what was found about the libraries is about those that are there now."""
    try:
        return all(list(key_of(os.stat(path))) == key for path, key in record["libraries"])
    except (OSError, KeyError, TypeError, ValueError):
        return False


# --- one that is made ------------------------------------------------------------------------------------


def _make(store: Store, entry: str, fd: int, key: tuple[int, ...]) -> None:
    """Makes the entry; what forbids a copy for good becomes one too, so that it is not looked for again."""
    record: dict[str, Any] = {
        "version": _VERSION,
        "path": _path_of(fd),
        "key": key,
        "libraries": [],
        "made": time.time(),
    }
    with store.fresh() as (fresh, folder):
        try:
            _write(record, fd, key, folder)
        except Untuned as untuned:
            if not untuned.lasts:
                raise
            record["untuned"] = [untuned.reason, untuned.detail]
            if "name" in record:
                os.unlink(f"{folder}/{record['name']}")
        store.keep(fresh, entry, record)


def _write(record: dict[str, Any], fd: int, key: tuple[int, ...], folder: str) -> None:
    path = f"/proc/self/fd/{fd}"
    _check_profile(record["path"])
    policy = policy_here(folder)
    with examined(path, Wishes(block=policy.pmd_size, page=policy.page_size)) as subject:
        _check_plan(subject)
        _check_onlookers(record, path)
        name = os.path.basename(record["path"])
        record["name"] = name if name != RECORD and len(os.fsencode(name)) <= _NAME_MOST else "program"
        copy = f"{folder}/{record['name']}"
        write(subject, copy, check=True)
        record["won"], record["bits"] = subject.plan.won, subject.plan.random_bits_lost
    with open(copy, "rb", 0) as file:
        os.chown(file.fileno(), os.geteuid(), os.getegid())
        os.chmod(file.fileno(), _MODE)
        _check_labels(fd, file.fileno())
        warmed = warm(copy)
        if warmed.outcome is Outcome.REFUSED:
            raise Untuned(POINTLESS, warmed.why, lasts=True)
        if key_of(os.fstat(fd)) != key:
            raise Untuned("changing")
        record["copy"], record["original"] = key_of(os.fstat(file.fileno())), _original(file.fileno())


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)")


def _check_plan(subject: Subject) -> None:
    plan = subject.plan
    if plan.won > 0:
        return
    if plan.refused or plan.refusals:
        raise Untuned("refused", plan.refusals[0].text, lasts=True)
    raise Untuned(ALIGNED if plan.before.blocks(Tier.AS_IS) else "no block to win", lasts=True)


def _check_onlookers(record: dict[str, Any], path: str) -> None:
    """Notes the libraries that were looked at, with their identities."""
    with opened(path) as found:
        looking, paths = onlooker(found.image, found.data)
    record["libraries"] = [(each, key_of(os.stat(each))) for each in paths]
    if looking is not None:
        where = "" if looking.path == path else f" in {looking.path}"
        raise Untuned("looks at its own path", f"{looking.text}{where}", lasts=True)


def _check_profile(path: str) -> None:
    enabled, profiles = APPARMOR
    try:
        with open(enabled) as file:
            if not file.read().startswith("Y"):
                return
        names = sorted(os.scandir(profiles), key=lambda each: each.name)
    except OSError:
        return
    for each in names:
        if each.is_file():
            with open(each.path, "rb") as profile:
                if os.fsencode(path) in profile.read():
                    raise Untuned("a security profile", each.path)


def _check_labels(original: int, copy: int) -> None:
    """Security modules go by the file's label; capabilities and signatures are such attributes too."""
    labels = [
        {name: os.getxattr(fd, name) for name in os.listxattr(fd) if name.startswith("security.")}
        for fd in (original, copy)
    ]
    if labels[0] != labels[1]:
        differing = sorted(set(labels[0].items()) ^ set(labels[1].items()))
        raise Untuned("a security label", differing[0][0])


def refill(fd: int) -> tuple[int | None, int] | None:
    """Fills the page cache again where it has lost blocks; looks only, where it has not. How many of the blocks that
    can be huge mappings have their folio (None: hidden), and how many there are; None where that failed."""
    try:
        warmed = warm(f"/proc/self/fd/{fd}")
    except OSError:
        return None
    return warmed.has, warmed.wanted
