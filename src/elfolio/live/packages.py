"""live.packages: the files of an installed package. In: its name. Out: paths, as dpkg or rpm tells them."""

import errno
import os
import shutil
import subprocess

__all__ = ["package_files"]

_TOOLS = (("dpkg-query", "-L"), ("rpm", "-ql"))


def package_files(name: str) -> tuple[str, ...]:
    """Its regular files that are there, links followed, each once. Raises OSError: ENOENT for a package that is not
    installed, or where neither dpkg nor rpm is."""
    tools = [words for words in _TOOLS if shutil.which(words[0])]
    if not tools:
        raise OSError(errno.ENOENT, "neither dpkg nor rpm is here to say what is in it; name the files", name)
    if not name or name.startswith("-"):
        raise OSError(errno.EINVAL, "not the name of a package", name)
    for words in tools:
        done = subprocess.run([*words, name], capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
        if done.returncode == 0:
            return tuple(dict.fromkeys(_regular(os.fsdecode(done.stdout).splitlines())))
    raise OSError(errno.ENOENT, "no such package is installed", name)


def _regular(lines: list[str]) -> list[str]:
    """dpkg-query mixes remarks about diversions with the paths."""
    return [os.path.realpath(line) for line in lines if line.startswith("/") and os.path.isfile(line)]
