"""The oldest and the newest linkers that Debian offers, and objects of real packages: fetched, hence marked network."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from elfolio.layout.relink import relink_all
from tests.layout.fetching import Suite
from tests.layout.linking import Linked, RealLinker, differences, ld_modes, link, lld_modes
from tests.layout.objects import SETS, ObjectSet, run, why_not
from tests.layout.test_relink_matrix import every_pair

pytestmark = [pytest.mark.network, pytest.mark.slow]

STABLE, NEWEST = "bookworm", "sid"


@dataclass(frozen=True)
class Package:
    """A source package, and the files of it that make one program or library without configuration."""

    name: str
    sources: tuple[str, ...]
    compile: tuple[str, ...] = ()
    link: tuple[str, ...] = ("-pie",)
    without: tuple[str, ...] = ()
    compiler: str = "gcc"


PACKAGES = (
    Package(
        "lua5.4", ("src/*.c",), ("-O2", "-fpie", "-DLUA_USE_LINUX"), ("-pie", "-Wl,-E", "-lm", "-ldl"), ("luac.c",)
    ),
    Package("zlib", ("*.c",), ("-O2", "-fPIC"), ("-shared", "-Wl,-soname,libz.so.1")),
    Package(
        "bzip2",
        ("*.c",),
        ("-O2", "-g"),
        ("-static",),
        ("bzip2recover.c", "dlltest.c", "mk251.c", "spewG.c", "unzcrash.c"),
    ),
    Package("lz4", ("lib/*.c",), ("-O1", "-fPIC"), ("-shared",)),
    Package("tinyxml2", ("tinyxml2.cpp", "xmltest.cpp"), ("-O1", "-fpie", "-g"), ("-pie",), compiler="g++"),
    Package("pugixml", ("src/*.cpp",), ("-O2", "-fPIC", "-ffunction-sections"), ("-shared",), compiler="g++"),
)


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return Suite(STABLE, tmp_path_factory.mktemp(STABLE))


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return Suite(NEWEST, tmp_path_factory.mktemp(NEWEST))


def _lld(suite: Suite, choose: str) -> RealLinker:
    majors = sorted(int(name.partition("-")[2]) for name in suite.names("^lld-[0-9]+$"))
    major = majors[0] if choose == "oldest" else majors[-1]
    return suite.linker(f"lld-{major}", "lld", f"usr/lib/llvm-{major}/bin/lld")


@pytest.fixture(scope="module")
def linkers(stable: Suite, newest: Suite) -> tuple[RealLinker, ...]:
    ld = newest.linker("binutils-x86-64-linux-gnu", "ld", "usr/bin/x86_64-linux-gnu-ld.bfd")
    return (_lld(stable, "oldest"), _lld(newest, "newest"), ld)


@pytest.mark.parametrize("objects", SETS, ids=lambda o: o.name)
def test_the_oldest_and_the_newest(linkers: tuple[RealLinker, ...], objects: ObjectSet, tmp_path: Path) -> None:
    """What the oldest and the newest lld and the newest GNU ld make in any mode is told from any other."""
    reason = why_not(objects.compiler)
    if reason is not None:
        pytest.skip(reason)
    for linker in linkers:
        if objects.only in {"", linker.kind}:
            counts = every_pair(linker, objects, tmp_path)
            print(f"{linker.name}: {objects.name}: {dict(counts)}")
            assert linker.kind == "ld" or counts["unequal"] == 0


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_real_packages(linkers: tuple[RealLinker, ...], stable: Suite, package: Package, tmp_path: Path) -> None:
    """Objects of real packages, in the nine modes of lld and in GNU ld's: each mode tells each other one."""
    reason = why_not(package.compiler)
    if reason is not None:
        pytest.skip(reason)
    place = stable.source(package.name)
    found = [
        path for pattern in package.sources for path in sorted(place.glob(pattern)) if path.name not in package.without
    ]
    files = [tmp_path / f"{path.stem}.o" for path in found]
    for path, made in zip(found, files, strict=True):
        run(package.compiler, "-w", *package.compile, "-c", str(path), "-o", str(made))
    objects = replace(SETS[0], name=package.name, link=package.link, compiler=package.compiler)
    for linker in linkers:
        modes = lld_modes() if linker.kind == "lld" else ld_modes()
        real = [link(linker, objects, files, mode, tmp_path / "out") for mode in modes]
        print(f"{linker.name}: {package.name}: {_all_equal(real)} pairs equal")


def _all_equal(real: list[Linked]) -> int:
    """The number of pairs; AssertionError with the first one that is not."""
    for made in real:
        results = relink_all(made.image, [other.mode for other in real], made.data)
        for other, found in zip(real, results, strict=True):
            assert differences(found, other) == [], f"{made.mode} -> {other.mode}"
    return len(real) ** 2
