"""elfolio: programs that start fast on Linux, and why they don't.

Every public name is imported when it is first used: `import elfolio` by itself loads nothing.
"""

import sys

__version__ = "0.1.0"

if sys.platform != "linux":
    raise ImportError(f"elfolio runs on Linux only, not on {sys.platform}: it builds on clone3, pidfd and execveat")

_HOMES = {
    "elfolio.errors": ("InvalidArgument", "StaleTemplate", "TooManyActions", "UnholdableProgram"),
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
    "elfolio.spawn.pool": ("Pool",),
    "elfolio.spawn.popen": ("Popen", "call", "check_call", "check_output", "run"),
    "elfolio.spawn.streams": ("DEVNULL", "INHERIT", "PIPE", "STDOUT"),
    "elfolio.spawn.template": ("SpawnTemplate",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


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
