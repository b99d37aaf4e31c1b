"""tests.tune.sandbox: a program run where it can do no harm. In: a path, what lies there instead. Out: Ended.

Namespaces of its own, no network, no capabilities, no privileges, nobody's identity, a root that cannot be written,
and an empty /run. The file that is tried is mounted over the original's path, so that name, $ORIGIN and /proc/self/exe
are the same for both. Needs root.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("unshare", "setpriv", "mount", "timeout")
_PATIENCE = 5
_NOBODY = "65534"

# What a system would miss, left out by name although the sandbox would hold it.
_DANGEROUS_STEMS = (
    *("reboot", "shutdown", "halt", "poweroff", "init", "telinit", "runlevel", "systemctl", "systemd", "kexec"),
    *("mk", "fsck", "e2", "fdisk", "sfdisk", "cfdisk", "parted", "wipefs", "blkdiscard", "hdparm", "dd", "losetup"),
    *("insmod", "rmmod", "modprobe", "depmod", "kill", "pkill", "swap", "mount", "umount", "pivot_root", "switch_root"),
    *("chroot", "nsenter", "unshare", "setpriv", "resize", "tune2fs", "debugfs", "zramctl", "fstrim", "fsfreeze"),
    *("useradd", "userdel", "usermod", "groupadd", "passwd", "chpasswd", "login", "su", "agetty", "getty", "wall"),
    *("iptables", "nft", "ip6tables", "xtables", "ebtables", "arptables", "hwclock", "date", "ctrlaltdel", "rtcwake"),
)

_SCRIPT = """\
mount --make-rprivate /
[ -z "$2" ] || mount --bind "$2" "$1"
mount -o remount,bind,ro / || exit 121
for folder in /tmp /dev/shm; do
    mount --bind $folder $folder && mount -o remount,bind,ro $folder || exit 121
done
mount -t tmpfs -o mode=1777 run /run || exit 121
cd /run
shift 2
exec timeout -k 1 {patience} setpriv --reuid {nobody} --regid {nobody} --clear-groups --bounding-set=-all \
--inh-caps=-all --no-new-privs env -i PATH=/usr/bin:/bin HOME=/run LC_ALL=C "$@"
"""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def unsettled(self) -> bool:
        """Whether it says nothing about the program: no sandbox could be made, time ran out, nothing was executed."""
        return self.status in (121, 124, 126, 127, 137)


def lacking() -> str:
    """What this machine lacks to run one; empty for nothing."""
    if os.geteuid() != 0:
        return "needs root; to force: sudo .venv/bin/python -m pytest -m root"
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    return f"needs {', '.join(missing)}; to force: apt-get install util-linux" if missing else ""


def is_harmless(path: Path) -> bool:
    """Whether a program may be tried at all."""
    return not any(path.name.startswith(stem) for stem in _DANGEROUS_STEMS)


def run(path: Path, instead: Path | None, words: Sequence[str] = (), prefix: Sequence[str] = ()) -> Ended:
    """Runs `path` with `words`, where `instead` lies there; `prefix`: what runs it, and gets its path behind."""
    script = _SCRIPT.format(patience=_PATIENCE, nobody=_NOBODY)
    spaces = ("-m", "-n", "-p", "-i", "-u", "--fork", "--kill-child", "--mount-proc")
    places = [str(path), "" if instead is None else str(instead)]
    return _ended(["unshare", *spaces, "sh", "-c", script, "sh", *places, *prefix, str(path), *words])


def run_plain(path: Path, instead: Path | None, words: Sequence[str] = (), prefix: Sequence[str] = ()) -> Ended:
    """The same without a sandbox, for the tests' own programs: the other file runs where it is, by the same name."""
    if prefix:
        return _ended([*prefix, str(instead or path), *words])
    return _ended([str(path), *words], executable=str(instead or path))


def _ended(command: list[str], executable: str | None = None) -> Ended:
    done = subprocess.run(
        command, executable=executable, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def difference(first: Ended, second: Ended, other: Ended) -> str | None:
    """How a changed file behaves otherwise than the original did, twice: empty for not at all, None where nothing can
    be said because the original differs from itself."""
    if first.unsettled or second.unsettled or first.status != second.status:
        return None
    if other.status != first.status:
        return f"exit status {other.status} instead of {first.status}: {other.stderr[-200:]!r}"
    for name in ("stdout", "stderr"):
        mine, twin, theirs = (getattr(ended, name) for ended in (first, second, other))
        if mine == twin and mine != theirs:
            return f"{name} differs: {theirs[:200]!r} instead of {mine[:200]!r}"
    return ""
