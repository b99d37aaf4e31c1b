"""What RELRO costs: against /proc/PID/maps of real programs, and against arithmetic on single bytes."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.layout.relro import Relro, protected_span, relro
from elfolio.layout.segments import Layout
from elfolio.span import Span
from tests.lab import boot, kernels
from tests.layout.programs import (
    PT_GNU_RELRO,
    PT_LOAD,
    Mapping,
    R,
    W,
    build,
    head,
    held,
    image_of,
    load,
    maps,
    own,
    parse_maps,
    patch,
)

HUGE = 2 << 20

READERS = (
    *("base32", "base64", "cat", "cksum", "cut -c1", "expand", "fmt", "fold", "grep x", "gzip -c", "head", "md5sum"),
    *("nl", "od", "paste -", "python3", "perl", "sed p", "sh", "bash", "sha1sum", "sha256sum", "sort", "sum", "tac"),
    *("tail", "tee", "tr a b", "tsort", "unexpand", "uniq", "wc", "xargs"),
)
"""Programs that do nothing before they read their standard input: by then dynamic linking is over."""


def relro_of(path: Path | str) -> Relro:
    """Of a file that has one, at every size."""
    found = relro(Layout(image_of(path), 4096))
    assert found is not None
    return found


def real_pages(layout: Layout, mapped: list[Mapping], base: int) -> tuple[int, int]:
    """Pages of a process's writable segments that are read-only now, and that are writable."""
    counts = {"r": 0, "w": 0}
    for one in layout.in_memory:
        if one.is_writable:
            for mapping in mapped:
                pages = one.memory.shifted(base).common(mapping.memory).size // layout.page
                counts["w" if mapping.perms[1] == "w" else "r"] += pages
    return counts["r"], counts["w"]


def test_twenty_programs_have_what_was_foretold() -> None:
    """Of twenty programs and more of this machine, as many pages are protected and stay writable as the file said, at
    the addresses that it said; and at every size the cost is that of their bytes packed with and without RELRO."""
    compared = 0
    for command in READERS:
        path = shutil.which(command.split()[0])
        if path is None or not Path(path).read_bytes().startswith(b"\x7fELF"):
            continue  # a script, where a virtual environment comes first in PATH
        path = str(Path(path).resolve())
        if image_of(path).segment(PT_GNU_RELRO) is None:
            continue
        layout = Layout(image_of(path), 4096)
        found = relro_of(path)
        with held(path, *command.split()[1:], reads=True) as pid:
            mapped, everything = own(pid, path), maps(pid)
        base = mapped[0].memory.start - layout.memory.start
        cost = found.at(4096)
        assert real_pages(layout, everything, base) == (cost.protected_pages, cost.writable_pages), command
        assert any(m.memory == cost.protected.shifted(base) and m.perms == "r--p" for m in mapped), command
        check_sizes(layout, found)
        compared += 1
    if compared < 20:
        pytest.skip(
            f"only {compared} of the programs are here; to force: apt-get install coreutils grep gzip sed xz-utils"
        )


def check_sizes(layout: Layout, found: Relro) -> None:
    """The costs at each size, from bytes counted another way."""
    guarded = found.memory.size - found.padding
    rest = sum(s.memsz for s in layout.image.loads if s.flags & W) - sum(
        s.memory.common(found.memory).size for s in layout.image.loads if s.flags & W
    )
    for cost in found.costs:
        assert cost.together == -(-(guarded + rest) // cost.page)
        assert cost.apart == -(-guarded // cost.page) + -(-rest // cost.page)
        assert cost.least_cost in (0, 1)
        assert cost.pages >= cost.apart


@pytest.mark.parametrize("linker", ["bfd", "gold", "lld", "mold"])
def test_each_linker_s_relro(tmp_path: Path, linker: str) -> None:
    """What each linker makes of -z relro -z now is protected as foretold, and takes two huge pages where its data
    would fit into one."""
    program = build(tmp_path / "waiter", "-pie", "-fPIE", "-Wl,-z,relro,-z,now", linker=linker)
    layout, found = Layout(image_of(program), 4096), relro_of(program)
    with held(program) as pid:
        mapped = own(pid, program)
    base = mapped[0].memory.start
    assert real_pages(layout, mapped, base) == (found.at(4096).protected_pages, found.at(4096).writable_pages)
    assert found.at(4096).is_whole
    assert (found.at(HUGE).apart, found.at(HUGE).together, found.at(HUGE).cost) == (2, 1, 1)


@pytest.mark.parametrize("linker", ["bfd", "lld"])
@pytest.mark.parametrize("page", [16384, 65536])
def test_linked_for_larger_pages(tmp_path: Path, linker: str, page: int) -> None:
    """With max-page-size and common-page-size of a larger page, that page protects all of RELRO, and nothing else;
    a link for 4 KiB leaves some of it open there."""
    size = f"-Wl,-z,now,-z,max-page-size={page},-z,common-page-size={page}"
    large = relro_of(build(tmp_path / "large", "-pie", "-fPIE", size, linker=linker))
    assert large.at(page).is_whole
    assert large.at(page).protected_pages >= 1
    small = relro_of(build(tmp_path / "small", "-pie", "-fPIE", "-Wl,-z,now,-z,max-page-size=4096", linker=linker))
    assert not small.at(65536).is_whole


@pytest.mark.parametrize("cut", [1, 0x7FF, 0x1000])
def test_an_end_inside_of_a_page_is_rounded_down(tmp_path: Path, cut: int) -> None:
    """glibc leaves RELRO's last page writable if it is not whole, and the cost says how many bytes that exposes."""
    program = build(tmp_path / "waiter", "-pie", "-fPIE", "-Wl,-z,now", linker="bfd")
    image = image_of(program)
    index, segment = next((i, s) for i, s in enumerate(image.segments) if s.type == PT_GNU_RELRO)
    patch(program, index, memsz=segment.memsz - cut)
    layout, found = Layout(image_of(program), 4096), relro_of(program)
    cost = found.at(4096)
    with held(program) as pid:
        mapped = own(pid, program)
    assert real_pages(layout, mapped, mapped[0].memory.start) == (cost.protected_pages, cost.writable_pages)
    whole = found.memory.end // 4096 * 4096
    assert cost.exposed == found.memory.end - max(found.memory.start, whole)


def test_lld_s_padding_is_known(tmp_path: Path) -> None:
    """What lld fills RELRO up with to its page's end holds nothing, with the section table and without."""
    program = build(tmp_path / "a", "-pie", "-fPIE", "-Wl,-z,now", linker="lld")
    found = relro_of(program)
    image = image_of(program)
    segment = image.segment(PT_GNU_RELRO)
    assert segment is not None
    assert found.padding >= segment.memsz - segment.filesz > 0
    bare = relro(Layout(head(*image.segments), 4096))
    assert bare is not None
    assert bare.padding == segment.memsz - segment.filesz


def test_a_file_without_relro() -> None:
    """No PT_GNU_RELRO, or one without a size, is none."""
    assert relro(Layout(head(load()), 4096)) is None
    assert relro(Layout(head(load(), load(memsz=0, filesz=0, type=PT_GNU_RELRO)), 4096)) is None


def test_what_was_not_asked_for() -> None:
    """A size that was not asked for is a KeyError, not a guess."""
    found = relro(Layout(head(load(flags=R | W), load(type=PT_GNU_RELRO)), 4096), (4096,))
    assert found is not None
    with pytest.raises(KeyError):
        found.at(16384)


@given(
    start=st.integers(0, 0x40000), size=st.integers(1, 0x40000), more=st.integers(0, 0x40000),
    page=st.sampled_from([4096, 16384, 65536]),
)  # fmt: skip
def test_bytes_exposed_and_caught_counted_one_by_one(start: int, size: int, more: int, page: int) -> None:
    """A byte of RELRO is exposed if its page is not made read-only, a byte of data before it caught if its is."""
    layout = Layout(head(load(0, start + size + more, flags=R | W), load(start, size, type=PT_GNU_RELRO)), page)
    found = relro(layout, (page,))
    assert found is not None
    cost = found.costs[0]
    readonly = {n * page for n in range(start // page, (start + size) // page)}
    exposed = sum(1 for byte in range(start, start + size) if byte // page * page not in readonly)
    assert cost.exposed == exposed
    assert cost.caught == sum(1 for byte in range(start) if byte // page * page in readonly)
    assert protected_span(start, size, page) == cost.protected
    assert cost.protected_pages == len(readonly)
    assert cost.protected_pages + cost.writable_pages == -(-(start + size + more) // page)
    assert Span(start, start + size) == found.memory


FILTERS = ("cat", "cut -c1-", "expand", "fold -w999", "head -n999", "paste", "sort", "tac", "tail -n999", "unexpand")
"""Programs that show their own maps."""


@pytest.mark.slow
@pytest.mark.qemu("aarch64")
def test_with_pages_of_16_kib(tmp_path: Path) -> None:
    """Of Debian's programs for arm64 and their libraries, a kernel with pages of 16 KiB protects as many pages as was
    foretold from the files, at the same places, and leaves as many writable; so it does where RELRO ends inside of a
    page. A program whose data is congruent modulo 4 KiB alone is not ready, and does not run."""
    try:
        root = kernels.userland("arm64", ("base-files", "coreutils", "dash", "util-linux"))
        kernel = kernels.kernel("6.12", "arm64-16k")
    except kernels.Unavailable as lacking:
        pytest.skip(str(lacking))
    cut, skewed = (Path(shutil.copy(root / "bin/cat", tmp_path / name)) for name in ("cut", "skewed"))
    index, guarded = next((i, s) for i, s in enumerate(image_of(cut).segments) if s.type == PT_GNU_RELRO)
    patch(cut, index, memsz=guarded.memsz - 16)
    index, data = [(i, s) for i, s in enumerate(image_of(skewed).segments) if s.type == PT_LOAD][-1]
    patch(skewed, index, offset=data.offset - 0x1000)
    assert not Layout(image_of(skewed), 16384).is_ready
    place = boot.CARRIED / "odd"
    script = "".join(f"{tool} /proc/self/maps && echo && " for tool in (*FILTERS, place / "cut"))
    script += f"! {place / 'skewed'} /dev/null"
    ended = boot.boot(kernel, ["/bin/sh", "-c", script], root=root, carry={"odd": tmp_path}, timeout=400)
    assert ended.returncode == 0, ended.stderr + ended.console[-2000:]
    costs = []
    for text in ended.stdout.strip().split("\n\n"):
        mapped = sorted(parse_maps(text))
        for path in {m.path for m in mapped if m.path.startswith("/")}:
            file = cut if path == str(place / "cut") else root / path.removeprefix("/")
            layout = Layout(image_of(file), 16384)
            found = relro(layout, (16384,))
            assert found is not None
            base = min(m.memory.start for m in mapped if m.path == path) - layout.memory.start
            costs.append(found.at(16384))
            assert real_pages(layout, mapped, base) == (costs[-1].protected_pages, costs[-1].writable_pages), path
    assert len(costs) == 3 * (len(FILTERS) + 1)
    assert any(cost.exposed for cost in costs)
