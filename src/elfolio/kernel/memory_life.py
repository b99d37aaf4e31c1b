"""kernel.memory_life: a machine boots, runs applications, and loads one big file. In: Setting. Out: Loads."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from elfolio.kernel.buddy import BLOCK, ORDERS, PMD_ORDER, Kind, PageBlock, Work, Zone
from elfolio.kernel.workload import DEFAULT, Application, Workload

__all__ = ["CELLS", "POLICIES", "Blocks", "FolioPolicy", "Load", "Machine", "Setting", "census", "live", "load"]


class FolioPolicy(NamedTuple):
    """Who gets folios of which order in the page cache."""

    name: str
    meaning: str
    others: int
    """The largest order of other files."""
    file: int
    """The largest order of the big file."""
    reserve: bool = False
    """Blocks of 2 MiB for the whole file are held from boot until the load."""
    window: int = 32
    """Pages of others' readahead: 128 KiB."""


POLICIES = {
    one.name: one
    for one in (
        FolioPolicy("everywhere", "large folios for all files", 5, PMD_ORDER),
        FolioPolicy("hinted-file", "large folios for the big file alone", 0, PMD_ORDER),
        FolioPolicy(
            "reserve", "large folios for all files, and room for the big one held from boot", 5, PMD_ORDER, True
        ),
        FolioPolicy("small", "single pages for all files", 0, 0),
        FolioPolicy("huge-cache", "folios of 2 MiB wherever files are long enough", PMD_ORDER, PMD_ORDER, False, 1024),
    )
}


@dataclass(frozen=True, slots=True)
class Setting:
    """In pages of 4 KiB."""

    policy: FolioPolicy
    memory: int
    file: int
    unmovable: float = 0.07
    """Share of memory that the kernel holds, in the mean."""
    workload: Workload = DEFAULT
    seed: int = 1


class Blocks(NamedTuple):
    """Of 2 MiB, by what is in them."""

    all: int
    unmovable: int
    """With at least one page of the kernel's."""
    free: int
    pages: int
    """Unmovable ones, anywhere."""


@dataclass(frozen=True, slots=True)
class Load:
    """The file, loaded at one moment."""

    tick: int
    orders: tuple[int, ...]
    """Pages of the file in folios of each order."""
    work: Work
    free: int
    """Pages free before."""
    free_huge: int
    """Blocks of order 9 free before."""
    blocks: Blocks
    """Before."""
    cells: str
    """Afterwards, a letter for each page block, in order: CELLS."""

    @property
    def huge(self) -> float:
        """Share of the file in folios of 2 MiB."""
        return self.orders[PMD_ORDER] / (sum(self.orders) or 1)


@dataclass(slots=True)
class _Running:
    owner: int
    what: Application
    ends: int
    anon: int
    """Pages still to come, here and below."""
    cache: int


_KERNEL, _SLAB, _FILE, _RESERVE, _FIRST, _LAST = 1, 2, 3, 4, 16, 65000


@dataclass(slots=True)
class Machine:
    """One that has booted: most of the kernel's memory is taken, and a little cache read."""

    setting: Setting
    zone: Zone = field(init=False)
    tick: int = 0
    _random: random.Random = field(init=False)
    _running: list[_Running] = field(default_factory=list)
    _kernel: dict[Kind, int] = field(default_factory=dict)
    _next: int = _FIRST

    def __post_init__(self) -> None:
        setting = self.setting
        self.zone = Zone(setting.memory, setting.seed)
        self._random = random.Random(setting.seed)
        self._kernel = {Kind.KERNEL: 0, Kind.SLAB: 0}
        if setting.policy.reserve:
            self.zone.take(Kind.HELD, _RESERVE, setting.file, order=PMD_ORDER)
        cache = setting.memory // 40
        while cache > 0:
            cache -= self._read(2, 64)
            self._grow_kernel(1.0, 64)
        self._grow_kernel(1.0, setting.memory)

    def _grow_kernel(self, level: float, pages: int) -> None:
        """Towards `level` times its mean, by so many pages at most; two thirds of it are not slab."""
        wanted = {Kind.KERNEL: 2 / 3, Kind.SLAB: 1 / 3}
        for kind, part in wanted.items():
            lack = min(pages, int(self.setting.memory * self.setting.unmovable * level * part) - self._kernel[kind])
            while lack > 0:
                order = self._random.choice((0, 0, 0, 1, 2, 3))
                got = self.zone.take(
                    kind, _KERNEL if kind is Kind.KERNEL else _SLAB, min(lack, 1 << order), order=order
                )
                self._kernel[kind] += got
                lack = lack - got if got else 0

    def _shrink_kernel(self) -> None:
        """Back to its mean: objects end in no order, so that pages are freed here and there."""
        for kind, part in ((Kind.KERNEL, 2 / 3), (Kind.SLAB, 1 / 3)):
            mean = self.setting.memory * self.setting.unmovable * part
            if self._kernel[kind] > mean:
                owner = _KERNEL if kind is Kind.KERNEL else _SLAB
                self._kernel[kind] -= self.zone.drop(owner, 1 - mean / self._kernel[kind])

    def _read(self, owner: int, middle: int) -> int:
        """One file: sizes are spread over two powers of four around the middle."""
        pages = max(1, int(middle * 4 ** self._random.uniform(-2, 2)))
        policy, share = self.setting.policy, self.setting.workload.again
        again = 3 if share and self._random.random() < share else 0
        self.zone.read(Kind.CACHE, owner, pages, order=policy.others, window=policy.window, again=again)
        return pages

    def run(self) -> None:
        """One tick."""
        self.tick += 1
        for one in [one for one in self._running if one.ends <= self.tick]:
            self._end(one)
        self._start()
        spiking = self.tick % self.setting.workload.spikes == 0
        level = 1 + self.setting.workload.spike * spiking
        busy = [one for one in self._running if one.anon > 0 or one.cache > 0]
        # As much for each turn as lets the kernel's growth be spread over the whole tick.
        turns = 1 + sum(one.anon // 48 + one.cache // (2 * one.what.file) for one in busy)
        share = 2 + int(self.setting.memory * self.setting.unmovable * level) // turns
        while busy:
            one = self._random.choice(busy)
            self._turn(one)
            self._grow_kernel(level, share)
            if one.anon <= 0 and one.cache <= 0:
                busy = [other for other in busy if other.anon > 0 or other.cache > 0]
        self._grow_kernel(level, self.setting.memory)
        self._shrink_kernel()

    def _start(self) -> None:
        what = self._random.choice(self.setting.workload.applications)
        spread = self._random.uniform(0.5, 1.5)
        anon, cache = (int(self.setting.memory * share * spread) for share in (what.anon, what.cache))
        self._running.append(_Running(self._next, what, self.tick + what.life, anon, cache))
        self._next = self._next + 1 if self._next < _LAST else _FIRST

    def _end(self, one: _Running) -> None:
        self.zone.drop(one.owner)
        self._running.remove(one)

    def _turn(self, one: _Running) -> None:
        if one.anon > 0:
            order, pages = (PMD_ORDER, BLOCK) if one.what.huge else (0, self._random.randrange(1, 96))
            got = self.zone.take(Kind.ANON, one.owner, min(pages, one.anon), order=order, direct=one.what.huge)
            one.anon -= pages
            if not got:
                # The oldest ends, as under the OOM killer.
                one.anon = one.cache = 0
                self._running[0].anon = self._running[0].cache = 0
                self._end(self._running[0])
        if one.cache > 0:
            one.cache -= self._read(one.owner, one.what.file)


CELLS = {
    "F": "free as a whole",
    "f": "mostly free, in pieces",
    "B": "the big file, one folio of 2 MiB",
    "b": "mostly the big file, in smaller folios",
    "C": "page cache of others, one folio of 2 MiB",
    "c": "mostly page cache of others, in smaller folios",
    "A": "an application's memory, one huge page",
    "a": "mostly applications' memory, in smaller pages",
    "x": "any of these beside pages of the kernel",
    "k": "mostly the kernel's",
    "h": "held",
}


def _cell(one: PageBlock) -> str:
    if one.free == BLOCK:
        return "F"
    kernel = one.kernel + one.slab
    pages = {"f": one.free, "b": one.file, "c": one.cache, "a": one.anon, "k": kernel, "h": one.held}
    most = max(pages, key=pages.__getitem__)
    if one.folio >= PMD_ORDER and most in "abc":
        return most.upper()
    return "x" if kernel and most != "k" else most


def census(zone: Zone) -> Blocks:
    """The page blocks, counted."""
    found = list(zone.blocks())
    unmovable = [one for one in found if one.kernel or one.slab]
    pages = sum(one.kernel + one.slab for one in unmovable)
    return Blocks(len(found), len(unmovable), sum(one.free == BLOCK for one in found), pages)


def load(zone: Zone, setting: Setting, tick: int, *, compact: bool = False) -> Load:
    """Loads the file into this zone. `compact`: all of memory is compacted first, which counts as its work."""
    before, free, huge, blocks = zone.work(), zone.free, zone.free_huge(), census(zone)
    if setting.policy.reserve:
        zone.drop(_RESERVE)
    if compact:
        zone.compact()
    window = 2 * BLOCK if setting.policy.file else setting.policy.window
    zone.read(Kind.FILE, _FILE, setting.file, order=setting.policy.file, window=window)
    folios = zone.folios(Kind.FILE)
    orders = tuple(folios[order] << order for order in range(ORDERS))
    return Load(tick, orders, zone.work().since(before), free, huge, blocks, "".join(map(_cell, zone.blocks())))


def live(setting: Setting, progress: Callable[[int, int], object] | None = None) -> Iterator[tuple[int, Zone]]:
    """The machine's memory at each moment of the workload; what is done to it does not come back: take a copy."""
    machine, ticks = Machine(setting), setting.workload.when()
    for moment in ticks:
        while machine.tick < moment:
            machine.run()
            if progress is not None:
                progress(machine.tick, ticks[-1])
        yield moment, machine.zone
