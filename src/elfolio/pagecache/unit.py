"""pagecache.unit: a systemd unit that warms files at boot. In: a command, a directory. Out: the unit, installed.

It runs before all ordinary services (basic.target), because whoever starts first decides the folios of what it maps.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["NAME", "install", "uninstall", "unit_text"]

NAME = "elfolio-warm.service"
_TARGET = "basic.target"
_MARK = "# Written by elfolio warm --install-unit; --uninstall-unit removes it."
_TEXT = """\
{mark}
[Unit]
Description=Fill the page cache with huge folios
Documentation=man:systemd.service(5)
DefaultDependencies=no
After=local-fs.target
Before={target} shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
ExecStart={command}
# 1: not all of it could be had.
SuccessExitStatus=1
NoNewPrivileges=yes

[Install]
WantedBy={target}
"""


def unit_text(command: Sequence[str]) -> str:
    """The unit that runs the command, whose first word is an absolute path."""
    return _TEXT.format(mark=_MARK, target=_TARGET, command=" ".join(map(_quoted, command)))


def _quoted(word: str) -> str:
    """As systemd.service(5) and systemd.syntax(7) have it: quotes, escapes, and the two signs that stand for values."""
    escaped = "".join(map(_escaped, word))
    return escaped if re.fullmatch(r"[\w./=@:+-]+", escaped, re.ASCII) else f'"{escaped}"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char in "%$":
        return char * 2
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))


def install(command: Sequence[str], folder: str | os.PathLike[str]) -> str:
    """Writes the unit and has the target want it, as `systemctl enable` would; returns its path. Raises OSError;
    FileExistsError for one of that name that is not elfolio's, ValueError for one that systemd-analyze refuses."""
    path = Path(folder, NAME)
    _check_ours(path)
    text = unit_text(command)
    verify(text)
    wants = path.parent / f"{_TARGET}.wants"
    wants.mkdir(exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=folder, prefix=f".{NAME}-")
    try:
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            os.fchmod(fd, 0o644)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    with suppress(FileExistsError):
        os.symlink(f"../{NAME}", wants / NAME)
    return str(path)


def uninstall(folder: str | os.PathLike[str]) -> str:
    """Removes what `install` wrote. Raises OSError: FileNotFoundError where there is none, FileExistsError for one that
    is not elfolio's."""
    path = Path(folder, NAME)
    _check_ours(path)
    path.unlink()
    wants = path.parent / f"{_TARGET}.wants"
    with suppress(FileNotFoundError):
        (wants / NAME).unlink()
    with suppress(OSError):  # others may be in it
        wants.rmdir()
    return str(path)


def _check_ours(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not path.read_text(errors="replace").startswith(_MARK):
            raise FileExistsError(17, "there is a unit of this name that elfolio has not written", str(path))


def verify(text: str) -> None:
    """By systemd-analyze, where it is. Raises ValueError with what it says."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        return
    with tempfile.TemporaryDirectory(prefix="elfolio-unit-") as folder:
        path = Path(folder, NAME)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        done = subprocess.run(
            [tool, "verify", "--man=no", str(path)], capture_output=True, text=True, errors="replace", check=False
        )
    said = [line for line in done.stderr.splitlines() if NAME in line]
    if done.returncode and said:
        raise ValueError(said[0].replace(f"{path}:", f"{NAME}:"))
