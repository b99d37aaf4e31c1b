"""elfolio: programs that start fast on Linux, and why they don't.

Every public name is imported when it is first used: `import elfolio` by itself loads nothing.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # what type checkers see; tests/test_package.py holds it equal to _HOMES
    from elfolio.errors import InvalidArgument as InvalidArgument
    from elfolio.errors import StaleTemplate as StaleTemplate
    from elfolio.errors import TooManyActions as TooManyActions
    from elfolio.errors import UnholdableProgram as UnholdableProgram
    from elfolio.memory import Buffer as Buffer
    from elfolio.memory import grow as grow
    from elfolio.pagecache.formats.fault import FormatError as FormatError
    from elfolio.pagecache.formats.fault import NoSuchType as NoSuchType
    from elfolio.pagecache.formats.files import TensorFiles as TensorFiles
    from elfolio.pagecache.formats.files import load_gguf as load_gguf
    from elfolio.pagecache.formats.files import load_safetensors as load_safetensors
    from elfolio.pagecache.formats.files import open_gguf as open_gguf
    from elfolio.pagecache.formats.files import open_safetensors as open_safetensors
    from elfolio.pagecache.load import LoadedFile as LoadedFile
    from elfolio.pagecache.load import LoadReport as LoadReport
    from elfolio.pagecache.load import load as load
    from elfolio.pagecache.reserve import Reservation as Reservation
    from elfolio.pagecache.reserve import reserve as reserve
    from elfolio.spawn.actions import Chdir as Chdir
    from elfolio.spawn.actions import Close as Close
    from elfolio.spawn.actions import CloseRange as CloseRange
    from elfolio.spawn.actions import Dup2 as Dup2
    from elfolio.spawn.actions import Fchdir as Fchdir
    from elfolio.spawn.actions import Open as Open
    from elfolio.spawn.actions import SigDefault as SigDefault
    from elfolio.spawn.actions import SigMask as SigMask
    from elfolio.spawn.aio import AsyncChild as AsyncChild
    from elfolio.spawn.aio_popen import create_subprocess_exec as create_subprocess_exec
    from elfolio.spawn.aio_popen import create_subprocess_shell as create_subprocess_shell
    from elfolio.spawn.capture import Completed as Completed
    from elfolio.spawn.child import Child as Child
    from elfolio.spawn.counts import Stats as Stats
    from elfolio.spawn.counts import stats as stats
    from elfolio.spawn.install import install as install
    from elfolio.spawn.install import uninstall as uninstall
    from elfolio.spawn.pipeline import PipelineCompleted as PipelineCompleted
    from elfolio.spawn.pipeline import PipelineStage as PipelineStage
    from elfolio.spawn.pipeline import apipeline as apipeline
    from elfolio.spawn.pipeline import pipeline as pipeline
    from elfolio.spawn.pool import Pool as Pool
    from elfolio.spawn.popen import Popen as Popen
    from elfolio.spawn.popen import call as call
    from elfolio.spawn.popen import check_call as check_call
    from elfolio.spawn.popen import check_output as check_output
    from elfolio.spawn.popen import run as run
    from elfolio.spawn.streams import DEVNULL as DEVNULL
    from elfolio.spawn.streams import INHERIT as INHERIT
    from elfolio.spawn.streams import PIPE as PIPE
    from elfolio.spawn.streams import STDOUT as STDOUT
    from elfolio.spawn.template import SpawnTemplate as SpawnTemplate

__version__ = "0.1.0"

if sys.platform != "linux":
    raise ImportError(f"elfolio runs on Linux only, not on {sys.platform}: it builds on clone3, pidfd and execveat")

_HOMES = {
    "elfolio.errors": ("InvalidArgument", "StaleTemplate", "TooManyActions", "UnholdableProgram"),
    "elfolio.memory": ("Buffer", "grow"),
    "elfolio.pagecache.formats.fault": ("FormatError", "NoSuchType"),
    "elfolio.pagecache.formats.files": (
        *("TensorFiles", "load_gguf", "load_safetensors", "open_gguf", "open_safetensors"),
    ),
    "elfolio.pagecache.load": ("LoadReport", "LoadedFile", "load"),
    "elfolio.pagecache.reserve": ("Reservation", "reserve"),
    "elfolio.spawn.actions": (
        "Chdir",
        "Close",
        "CloseRange",
        "Dup2",
        "Fchdir",
        "Open",
        "SigDefault",
        "SigMask",
    ),
    "elfolio.spawn.aio": ("AsyncChild",),
    "elfolio.spawn.aio_popen": ("create_subprocess_exec", "create_subprocess_shell"),
    "elfolio.spawn.capture": ("Completed",),
    "elfolio.spawn.child": ("Child",),
    "elfolio.spawn.counts": ("Stats", "stats"),
    "elfolio.spawn.install": ("install", "uninstall"),
    "elfolio.spawn.pipeline": ("PipelineCompleted", "PipelineStage", "apipeline", "pipeline"),
    "elfolio.spawn.pool": ("Pool",),
    "elfolio.spawn.popen": ("Popen", "call", "check_call", "check_output", "run"),
    "elfolio.spawn.streams": ("DEVNULL", "INHERIT", "PIPE", "STDOUT"),
    "elfolio.spawn.template": ("SpawnTemplate",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'elfolio' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
