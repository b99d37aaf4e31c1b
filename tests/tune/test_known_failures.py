"""Shapes on which patchelf, LIEF and LLVM's tools failed, and others that rewriters meet: each is rewritten without
harm, or refused with its reason, in both classes and byte orders."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.elf.samples import KINDS, Bits
from tests.elfwriter import Order
from tests.tune import shapes
from tests.tune.checker import check
from tests.tune.driver import Tuned, tune
from tests.tune.raw import load, read
from tests.tune.tools import complaints

TIERS = ("0", "1")
OLD_KERNELS = "before Linux 5.18"
"""What moves together with its program headers does not start there: allowed where it is said."""
ALIGN_BOMBS_OF_32_BITS = {"p_align of 1 TiB"}
EVERYDAY: list[tuple[Bits, Order]] = [(64, "little"), (32, "big")]
KINDS_MARKED = [
    pytest.param(*kind, marks=[] if kind in EVERYDAY else [pytest.mark.slow], id=f"{kind[0]}-{kind[1]}")
    for kind in KINDS
]


@dataclass(frozen=True)
class Round:
    """All shapes of one class and byte order, tuned at once."""

    folder: Path
    tier: str
    first: dict[str, Tuned]
    second: dict[str, Tuned]
    undone: dict[str, Tuned]


def _name(shape: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in shape)


@functools.cache
def _bytes(shape: str, bits: Bits, order: Order) -> bytes:
    makers = {**shapes.HANDLED, **{k: v for k, (v, _) in shapes.REFUSED.items()}, **shapes.EITHER}
    return makers[shape](bits, order)


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Bits, Order, str], Round]:
    """Three starts of the command for each tier and kind, when they are first asked for."""
    return functools.cache(lambda bits, order, tier: _round(bits, order, tier, tmp_path_factory.mktemp("shapes")))


def _round(bits: Bits, order: Order, tier: str, folder: Path) -> Round:
    names = [n for n in (*shapes.HANDLED, *shapes.REFUSED, *shapes.EITHER) if _fits(n, bits)]
    paths = {name: folder / _name(name) for name in names}
    for name, path in paths.items():
        path.write_bytes(_bytes(name, bits, order))
        path.chmod(0o755)
    options = ("--force", "--tier", tier)
    first = dict(zip(names, tune(list(paths.values()), folder / "first", *options), strict=True))
    outs = {name: one.out for name, one in first.items() if one.status == "tuned" and one.out is not None}
    second = dict(zip(outs, tune(list(outs.values()), folder / "second", *options), strict=True))
    undone = dict(zip(outs, tune(list(outs.values()), folder / "undone", "--undo"), strict=True))
    return Round(folder, tier, first, second, undone)


def _fits(shape: str, bits: Bits) -> bool:
    return bits == 64 or shape not in ALIGN_BOMBS_OF_32_BITS


def _assert_harmless(found: Round, shape: str) -> None:
    one = found.first[shape]
    assert one.out is not None
    said = [OLD_KERNELS] if one.row["notes"] else []
    assert [line for line in check(load(one.path), load(one.out)) if not any(part in line for part in said)] == []
    if found.tier == "1":
        assert complaints(one.path, one.out) == []
    again = found.second[shape].out
    assert again is not None
    assert again.read_bytes() == one.out.read_bytes(), "tuned twice it is another file"
    back = found.undone[shape].out
    assert back is not None
    assert back.read_bytes() == one.path.read_bytes(), "undone it is another file"


@pytest.mark.parametrize(("bits", "order"), KINDS_MARKED)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("shape", shapes.HANDLED)
def test_handled(rounds: Callable[[Bits, Order, str], Round], shape: str, tier: str, bits: Bits, order: Order) -> None:
    """Rewritten: the same program in memory, to readelf and eu-elflint; a second time nothing changes; undone it has
    the original's bytes."""
    found = rounds(bits, order, tier)
    one = found.first[shape]
    if tier == "0" and one.status == "copied":
        return  # ET_EXEC: execve does not look at p_align
    assert one.status == "tuned", one.reasons
    _assert_harmless(found, shape)


@pytest.mark.parametrize(("bits", "order"), KINDS_MARKED)
@pytest.mark.parametrize("shape", shapes.REFUSED)
def test_refused(rounds: Callable[[Bits, Order, str], Round], shape: str, bits: Bits, order: Order) -> None:
    """Left alone, with this reason, and nothing is written."""
    if not _fits(shape, bits):
        return
    one = rounds(bits, order, "1").first[shape]
    reason = shapes.REFUSED[shape][1]
    assert reason in [refusal["reason"] for refusal in one.row["refusals"]], (one.status, one.reasons)
    if one.status == "tuned":
        assert reason == "straddles", "only a tier was refused"
        _assert_harmless(rounds(bits, order, "1"), shape)
    else:
        assert (one.status, one.out) == ("refused", None)


@pytest.mark.parametrize(("bits", "order"), KINDS_MARKED)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("shape", shapes.EITHER)
def test_either(rounds: Callable[[Bits, Order, str], Round], shape: str, tier: str, bits: Bits, order: Order) -> None:
    """Refused with a reason, or rewritten without harm."""
    one = rounds(bits, order, tier).first[shape]
    if one.status == "tuned":
        _assert_harmless(rounds(bits, order, tier), shape)
    elif one.status == "copied":
        assert one.out is not None
        assert one.out.read_bytes() == one.path.read_bytes()
    else:
        assert (one.status, one.out) == ("refused", None)
        assert one.row["refusals"], "refused without a reason"


@pytest.mark.parametrize(("bits", "order"), KINDS_MARKED)
@pytest.mark.parametrize("shape", shapes.HANDLED)
def test_shapes_are_what_they_say(shape: str, bits: Bits, order: Order) -> None:
    """A file that tests.tune.checker finds fault with by itself would prove nothing."""
    raw = read(_bytes(shape, bits, order))
    assert check(raw, raw) == []


@pytest.mark.parametrize(("bits", "order"), KINDS_MARKED)
@pytest.mark.parametrize("shape", shapes.FUZZED)
def test_fuzzed(shape: str, bits: Bits, order: Order, tmp_path: Path) -> None:
    """Found by fuzzed headers, nothing that a linker makes: refused with a reason, or rewritten without harm."""
    make, options = shapes.FUZZED[shape]
    path = tmp_path / "shape"
    path.write_bytes(make(bits, order))
    (one,) = tune([path], tmp_path / "out", "--force", *options)
    assert one.status == "tuned" or (one.status == "refused" and one.row["refusals"])
    if one.out is not None:
        assert check(load(path), load(one.out), merged=4096 if "--merge" in options else 0) == []


def test_nothing_to_do_writes_the_same_bytes(tmp_path: Path) -> None:
    """LIEF 322, 416: a file for which nothing is to be done comes out as it went in."""
    paths = []
    for bits, order in KINDS:
        path = tmp_path / f"plain-{bits}-{order}"
        path.write_bytes(shapes.plainly(bits, order))
        paths.append(path)
    for one in tune(paths, tmp_path / "out"):
        assert (one.status, one.out and one.out.read_bytes()) == ("copied", one.path.read_bytes())
