"""kernel.switches: rules that changed. In: a kernel version. Out: what each rule was then, with its symbol and source.

A switch is data: a name, what it decides, the kernel's symbol, and the versions from which it had which value. Stable
branches receive some changes later: `stable` says from which point release of which branch. Where a branch was read
only at one point release, that one is named, and releases before it count as unchanged.

Sources named "read in" are fs/binfmt_elf.c, fs/exec.c, fs/proc/task_mmu.c, mm/*.c and arch/x86 of the kernels that
Debian packages as linux-source-5.10 (5.10.223), 6.1 (6.1.192), 6.12 (6.12.107) and 7.2 (7.2.13).
"""

from dataclasses import dataclass

__all__ = ["Switch", "Value", "Version"]

Version = tuple[int, ...]
"""(6, 18, 44)."""
Value = bool | int | str


@dataclass(frozen=True, slots=True)
class Switch:
    """One rule and its history."""

    name: str
    what: str
    symbol: str
    """Function or constant, and its file."""
    source: str
    history: tuple[tuple[Version, Value], ...]
    """Ascending: from this mainline version on, this value. The first entry is for everything before the second."""
    stable: tuple[tuple[Version, Value], ...] = ()
    """(6, 1, 192), value: in the 6.1 branch from that point release on."""

    def at(self, version: Version) -> Value:
        """Its value in that kernel."""
        for since, value in reversed(self.stable):
            if version[:2] == since[:2] and version >= since:
                return value
        return next(value for since, value in reversed(self.history) if version[:2] >= since or since == (0,))
