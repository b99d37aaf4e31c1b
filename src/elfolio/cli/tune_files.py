"""cli.tune_files: what `elfolio tune` works on. In: names of files and packages. Out: paths, or Failure."""

from collections.abc import Iterable

from elfolio.cli.parsing import Failure

__all__ = ["named_files"]


def named_files(files: Iterable[str], packages: Iterable[str]) -> list[str]:
    """Those named, and those of packages, each once."""
    found = list(files)
    for name in packages:
        found += _package(name)
    if not found:
        raise Failure("no file; name one, or a package with --package; see elfolio tune --help")
    return list(dict.fromkeys(found))


def _package(name: str) -> list[str]:
    """Its ELF files that can be mapped, and the libraries of its programs."""
    from elfolio.elf.constants import ET_DYN, ET_EXEC
    from elfolio.errors import ElfError
    from elfolio.live.libraries import libraries
    from elfolio.live.opened import opened
    from elfolio.live.packages import package_files

    found: dict[str, None] = {}
    try:
        for path in package_files(name):
            try:
                with opened(path) as file:
                    image = file.image
            except (OSError, ElfError):
                continue
            if image.header.type in (ET_EXEC, ET_DYN) and image.loads:
                needed = libraries(image) if image.interpreter else ()
                found.update(dict.fromkeys((path, *(x.path for x in needed if x.image is not None))))
    except OSError as error:
        raise Failure(f"--package {name}: {error.strerror}") from error
    if not found:
        raise Failure(f"--package {name}: it has no program and no shared object; name another")
    return list(found)
