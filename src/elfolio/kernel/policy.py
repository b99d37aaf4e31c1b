"""kernel.policy: which kernel. In: a name such as linux-6.12, or a version. Out: Policy, named switches as data.

A policy is a kernel version, a machine's page sizes, the file system, the C library, and the value of every switch.
Values come from the version (kernel.switches) unless given: distributions backport, and what a probe finds counts more
than a number (live.host).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from elfolio.errors import InvalidArgument
from elfolio.kernel.exec_switches import EXEC_SWITCHES
from elfolio.kernel.filesystems import Filesystem, filesystem
from elfolio.kernel.libc import LIBCS, Libc
from elfolio.kernel.mm_switches import MM_SWITCHES
from elfolio.kernel.switches import Switch, Value, Version

__all__ = ["PMD_SIZES", "PRESETS", "SWITCHES", "Policy", "policy"]

SWITCHES: Mapping[str, Switch] = MappingProxyType({switch.name: switch for switch in (*EXEC_SWITCHES, *MM_SWITCHES)})
"""Every switch there is. Other models of this room add theirs here."""

PMD_SIZES = MappingProxyType({4096: 2 << 20, 16384: 32 << 20, 65536: 512 << 20})
"""PMD_SIZE by page size, in bytes: a page of 8-byte entries, each for a page."""

_XARRAY_LIMIT_ORDER = 11
"""MAX_XAS_ORDER (include/linux/pagemap.h): the page cache keeps no folio of a higher order."""

PRESETS: Mapping[str, tuple[Version, Mapping[str, Value]]] = MappingProxyType(
    {
        "linux-5.10": ((5, 10, 223), {}),
        "linux-6.1": ((6, 1, 192), {}),
        "linux-6.12": ((6, 12, 107), {}),
        "linux-6.18": ((6, 18, 44), {}),
        "linux-7.2": ((7, 2, 13), {}),
        "proposed-max-folio": ((7, 2, 13), {"base_align_proposal": "max-folio"}),
        "proposed-pmd-32m": ((7, 2, 13), {"base_align_proposal": "pmd-32m"}),
        "proposed-tiers": ((7, 2, 13), {"base_align_proposal": "tiers"}),
    }
)
"""Name -> version and what differs from it. The point releases are those whose sources or behaviour were looked at."""


@dataclass(frozen=True)
class Policy:
    """Which rules hold. Sizes in bytes."""

    name: str
    version: Version
    machine: str = "x86_64"
    """As uname(2) says it: x86_64, aarch64."""
    page_size: int = 4096
    fs: Filesystem = field(default_factory=lambda: filesystem("ext4"))
    """Of the executable and its libraries."""
    libc: Libc = LIBCS["glibc-2.36"]
    mmap_rnd_bits: int = 28
    """Random bits of a base, in pages (vm.mmap_rnd_bits; 28 by default on x86-64)."""
    thp: str = "madvise"
    """/sys/kernel/mm/transparent_hugepage/enabled: always, madvise, never."""
    read_only_thp: bool | None = None
    """Whether CONFIG_READ_ONLY_THP_FOR_FS is set; None: not known, and counted as not."""
    probed_folio: int | None = None
    """Bytes of the largest folio that an experiment got from the file system (pagecache.probe); None: not tried."""
    given: Mapping[str, Value] = field(default_factory=dict)
    """Switches whose value is not that of the version: backports, proposals, probes."""

    def __getitem__(self, name: str) -> Any:
        """The value of a switch; a KeyError for a name that is none."""
        switch = SWITCHES[name]
        return self.given[name] if name in self.given else switch.at(self.version)

    @property
    def pmd_size(self) -> int:
        """Bytes that one page-middle-directory entry maps: the huge page."""
        return PMD_SIZES[self.page_size]

    @property
    def exec_folio_bytes(self) -> int:
        """What readahead through an executable mapping asks for (exec_folio_order)."""
        return max(self.page_size, 65536) if self["exec_folio_order"] and self.machine == "aarch64" else self.page_size

    @property
    def largest_folio(self) -> int:
        """Bytes of the largest folio that a file's mapping may have (mapping_max_folio_size); what was found by trial
        counts more than what is known."""
        if self.probed_folio is not None:
            return max(self.page_size, self.probed_folio)
        if self.version[:2] < self.fs.large_folios_since or self.fs.experimental:
            return self.page_size
        limit = min(self.pmd_size, self.page_size << _XARRAY_LIMIT_ORDER)
        return max(self.page_size, min(self.fs.largest, limit))

    def switched(self, **values: Value) -> "Policy":
        """The same with other values of switches; a KeyError for a name that is none."""
        for name in values:
            SWITCHES[name]
        return replace(self, given={**self.given, **values})

    def with_options(self, *, page_size: int | None = None, fs: str | None = None, libc: str | None = None) -> "Policy":
        """The same with another page size in bytes, file system or C library by name. Raises InvalidArgument."""
        made = self
        if page_size is not None:
            if page_size not in PMD_SIZES:
                raise InvalidArgument(f"page size {page_size}: one of {', '.join(map(str, PMD_SIZES))}")
            made = replace(made, page_size=page_size)
        if fs is not None:
            made = replace(made, fs=filesystem(fs))
        if libc is not None:
            if libc not in LIBCS:
                raise InvalidArgument(f"C library {libc}: one of {', '.join(LIBCS)}")
            made = replace(made, libc=LIBCS[libc])
        return made


def policy(name: str) -> Policy:
    """A preset, or any `linux-X.Y[.Z]`. Raises InvalidArgument for another name, and says which there are."""
    if name in PRESETS:
        version, given = PRESETS[name]
        return Policy(name, version, given=given)
    found = re.fullmatch(r"linux-(\d+)\.(\d+)(?:\.(\d+))?", name)
    if found is None:
        raise InvalidArgument(f"policy {name}: linux-X.Y[.Z], or one of {', '.join(PRESETS)}")
    return Policy(name, tuple(int(part) for part in found.groups("0")))
