"""bench.load_subjects: the ways to get a model's bytes. In: paths. Out: pieces of memory. Imports only what it times.

A subject is a function that prepares (imports, which are not timed) and returns the load itself. A load returns its
pieces as flat arrays of bytes: what a user would compute with.
"""

import mmap
import os
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["SUBJECTS", "Files", "Load", "bytes_of"]


class Files(NamedTuple):
    """The same tensors twice."""

    safetensors: str
    torch: str
    """As torch.save writes them; empty where torch is missing."""


Load = Callable[[], list[Any]]
"""Flat arrays of bytes."""


def _read(files: Files) -> Load:
    import numpy

    def load() -> list[Any]:
        with open(files.safetensors, "rb", 0) as file:
            parts = file.read()
        # One read() returns 2 GiB - 4 KiB at most; FileIO.read without a size repeats it into one object.
        return [numpy.frombuffer(parts, "u1")]

    return load


def _fromfile(files: Files) -> Load:
    import numpy

    return lambda: [numpy.fromfile(files.safetensors, "u1")]


def _memmap(files: Files) -> Load:
    import numpy

    return lambda: [numpy.asarray(numpy.memmap(files.safetensors, "u1", "r"))]


def _mmap(files: Files) -> Load:
    import numpy

    def load() -> list[Any]:
        fd = os.open(files.safetensors, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return [numpy.frombuffer(mmap.mmap(fd, 0, prot=mmap.PROT_READ), "u1")]
        finally:
            os.close(fd)

    return load


def _elfolio(strategy: str) -> Callable[[Files], Load]:
    def prepare(files: Files) -> Load:
        import numpy

        from elfolio.pagecache.load import load

        return lambda: [numpy.frombuffer(load(files.safetensors, strategy=strategy), "u1")]

    return prepare


def _elfolio_tensors(files: Files) -> Load:
    import ml_dtypes  # noqa: F401

    from elfolio.pagecache.formats.files import load_safetensors

    return lambda: [array.reshape(-1).view("u1") for array in load_safetensors(files.safetensors).values()]


def _safetensors(files: Files) -> Load:
    from safetensors.numpy import load_file

    return lambda: [array.reshape(-1).view("u1") for array in load_file(files.safetensors).values()]


def bytes_of(tensors: Any) -> list[Any]:
    """Tensors of torch as flat arrays, not copied."""
    import torch

    return [tensor.reshape(-1).view(torch.uint8).numpy() for tensor in tensors]


def _safetensors_torch(files: Files) -> Load:
    from safetensors.torch import load_file

    return lambda: bytes_of(load_file(files.safetensors).values())


def _torch(files: Files) -> Load:
    import torch

    return lambda: bytes_of(torch.load(files.torch, mmap=True, weights_only=True).values())


def _fastsafetensors(files: Files) -> Load:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    def load() -> list[Any]:
        loader = SafeTensorsFileLoader(SingleGroup(), device="cpu", nogds=True)
        loader.add_filenames({0: [files.safetensors]})
        buffer = loader.copy_files_to_device()
        return bytes_of([buffer.get_tensor(name) for name in loader.get_keys()])

    return load


def _runai(files: Files) -> Load:
    from runai_model_streamer import SafetensorsStreamer

    def load() -> list[Any]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(files.safetensors)
            # Its buffer is used again: what is to be kept must be copied (its README).
            return bytes_of([tensor.clone() for _, tensor in streamer.get_tensors()])

    return load


SUBJECTS: dict[str, Callable[[Files], Load]] = {
    "read() into bytes": _read,
    "numpy.fromfile": _fromfile,
    "numpy.memmap": _memmap,
    "mmap": _mmap,
    "safetensors.numpy": _safetensors,
    "safetensors.torch": _safetensors_torch,
    "torch.load(mmap=True)": _torch,
    "fastsafetensors": _fastsafetensors,
    "runai-model-streamer": _runai,
    "elfolio auto": _elfolio("auto"),
    "elfolio auto again (A/A)": _elfolio("auto"),
    "elfolio auto, tensors": _elfolio_tensors,
    **{f"elfolio {name}": _elfolio(name) for name in ("mmap", "read", "readahead", "direct", "uncached")},
}
