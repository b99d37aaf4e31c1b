"""bench.load_by_tensor: the ways to get some tensors of a model by name. In: paths, names. Out: pieces of memory.

Opening the file is part of it. What can only load whole files is not here.
"""

import json
import mmap
import random
from collections.abc import Callable
from typing import Any

from bench.load_subjects import Files, Load, bytes_of

__all__ = ["BY_TENSOR", "by_tensor", "chosen"]

By = Callable[[Files, list[str]], list[Any]]


def chosen(path: str) -> list[str]:
    """A quarter of the tensors, in no order, the same ones every time."""
    names = sorted(_places(path))
    random.Random(7).shuffle(names)
    return names[: max(1, len(names) // 4)]


def _places(path: str) -> dict[str, tuple[int, int]]:
    """Offset and size of each tensor."""
    with open(path, "rb", 0) as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    spans = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (8 + length + start, end - start) for name, (start, end) in spans.items()}


def _read(files: Files, names: list[str]) -> list[Any]:
    import numpy

    places, found = _places(files.safetensors), []
    with open(files.safetensors, "rb", 0) as file:
        for name in names:
            at, size = places[name]
            file.seek(at)
            found.append(numpy.frombuffer(file.read(size), "u1"))
    return found


def _fromfile(files: Files, names: list[str]) -> list[Any]:
    import numpy

    places = _places(files.safetensors)
    return [numpy.fromfile(files.safetensors, "u1", size, offset=at) for at, size in (places[name] for name in names)]


def _memmap(files: Files, names: list[str]) -> list[Any]:
    import numpy

    whole, places = numpy.asarray(numpy.memmap(files.safetensors, "u1", "r")), _places(files.safetensors)
    return [whole[at : at + size] for at, size in (places[name] for name in names)]


def _mmap(files: Files, names: list[str]) -> list[Any]:
    import numpy

    with open(files.safetensors, "rb", 0) as file:
        whole = numpy.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), "u1")
    places = _places(files.safetensors)
    return [whole[at : at + size] for at, size in (places[name] for name in names)]


def _safetensors(files: Files, names: list[str]) -> list[Any]:
    from safetensors import safe_open

    with safe_open(files.safetensors, "numpy") as file:
        return [file.get_tensor(name).reshape(-1).view("u1") for name in names]


def _safetensors_torch(files: Files, names: list[str]) -> list[Any]:
    from safetensors import safe_open

    with safe_open(files.safetensors, "pt") as file:
        return bytes_of([file.get_tensor(name) for name in names])


def _torch(files: Files, names: list[str]) -> list[Any]:
    import torch

    tensors = torch.load(files.torch, mmap=True, weights_only=True)
    return bytes_of([tensors[name] for name in names])


def _elfolio(files: Files, names: list[str]) -> list[Any]:
    from elfolio.pagecache.formats.files import open_safetensors

    tensors = open_safetensors(files.safetensors)
    return [tensors[name].numpy().reshape(-1).view("u1") for name in names]


_NEEDS: dict[By, str] = {
    _read: "numpy",
    _fromfile: "numpy",
    _memmap: "numpy",
    _mmap: "numpy",
    _safetensors: "safetensors.numpy",
    _safetensors_torch: "safetensors.torch",
    _torch: "torch",
    _elfolio: "ml_dtypes",
}
BY_TENSOR: dict[str, By] = {
    "read() into bytes": _read,
    "numpy.fromfile": _fromfile,
    "numpy.memmap": _memmap,
    "mmap": _mmap,
    "safetensors.numpy": _safetensors,
    "safetensors.torch": _safetensors_torch,
    "torch.load(mmap=True)": _torch,
    "elfolio auto": _elfolio,
    "elfolio auto again (A/A)": _elfolio,
}


def by_tensor(subject: str, files: Files) -> Load:
    """The load of the chosen tensors. Raises ImportError; imports beforehand, which is not timed."""
    import importlib

    work = BY_TENSOR[subject]
    importlib.import_module(_NEEDS[work])
    if work is _elfolio:
        importlib.import_module("elfolio.pagecache.formats.files")
        importlib.import_module("elfolio.pagecache.load")
    names = chosen(files.safetensors)
    return lambda: work(files, names)
