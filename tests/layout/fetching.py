"""Linkers and sources of other Debian releases, fetched from the machine's own mirror and unpacked beside the system.

Nothing is installed: packages are unpacked into a directory, and run with the C library that was fetched with them.
"""

import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.layout.linking import RealLinker
from tests.layout.objects import run

_PRINTED = re.compile(r"'([^']+)' (\S+) ")


@dataclass(frozen=True)
class Suite:
    """One Debian release, with package lists of its own in `directory`."""

    name: str
    directory: Path

    @cached_property
    def options(self) -> list[str]:
        """apt's, so that it reads and writes nothing of the system's; the lists are fetched here."""
        place = self.directory
        for name in ("lists/partial", "cache/archives/partial"):
            (place / name).mkdir(parents=True, exist_ok=True)
        lines = [f"{kind} {_mirror()} {self.name} main" for kind in ("deb", "deb-src")]
        (place / "sources.list").write_text("\n".join(lines) + "\n")
        settings = {
            "Dir::Etc::sourcelist": place / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": place / "lists",
            "Dir::Cache": place / "cache",
            "Acquire::Languages": "none",
            "APT::Sandbox::User": "root",
        }
        options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        run("apt-get", *options, "-q", "update")
        return options

    def names(self, pattern: str) -> list[str]:
        """The packages whose names match."""
        found = run("apt-cache", *self.options, "search", "--names-only", pattern)
        return [line.split()[0] for line in found.splitlines()]

    def unpacked(self, package: str) -> Path:
        """The package and all that it depends on, in one directory tree."""
        no = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
        options = [f"--no-{name}" for name in no]
        listed = run("apt-cache", *self.options, "depends", "--recurse", *options, package)
        names = sorted({line for line in listed.splitlines() if line and line[0] not in " <|"})
        root, archives = self.directory / package, self.directory / "cache"
        self._fetch(archives, "download", *names)
        for archive in archives.glob("*.deb"):
            run("dpkg", "-x", str(archive), str(root))
            archive.unlink()
        return root

    def _fetch(self, place: Path, *words: str) -> None:
        """apt-get in that directory, where it puts what it downloads."""
        run("sh", "-c", 'cd "$1" && shift && exec apt-get "$@"', "sh", str(place), *self.options, "-q", *words)

    def source(self, package: str) -> Path:
        """The upstream sources, unpacked."""
        printed = run("apt-get", *self.options, "--print-uris", "--download-only", "source", package)
        name = next(name for _, name in _PRINTED.findall(printed) if ".orig.tar." in name and not name.endswith(".asc"))
        place = self.directory / "source" / package
        place.mkdir(parents=True)
        self._fetch(place, "--download-only", "source", package)
        run("tar", "-xf", str(place / name), "-C", str(place), "--strip-components=1")
        return place

    def linker(self, package: str, kind: str, program: str) -> RealLinker:
        """`program`, a path in the package, under the name that gcc looks for."""
        root = self.unpacked(package)
        loader = next(path for path in sorted(root.rglob("ld-linux-x86-64.so.2")) if path.is_file())
        libraries = ":".join(str(path) for path in sorted(root.rglob("x86_64-linux-gnu")) if path.is_dir())
        place = self.directory / f"ld-of-{package}"
        place.mkdir()
        starter = place / "ld"
        starter.write_text(
            f'#!/bin/sh\nexec {loader} --argv0 ld --library-path {libraries} {(root / program).resolve()} "$@"\n'
        )
        starter.chmod(0o755)
        return RealLinker(f"{package} of {self.name}", kind, place)


def _mirror() -> str:
    form = ("--format", "$(REPO_URI) $(ORIGIN) $(COMPONENT) $(ARCHITECTURE)", "Created-By: Packages")
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt-get and a Debian mirror; to force: run it on Debian with a network")
    for line in run("apt-get", "indextargets", *form).splitlines():
        uri, *rest = line.split()
        if rest == ["Debian", "main", "amd64"]:
            return uri
    pytest.skip("needs apt's sources to name a Debian mirror for amd64; to force: run it on Debian with a network")
