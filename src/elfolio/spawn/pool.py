"""spawn.pool: templates by path, the latest used kept. In: an absolute path. Out: a template that spawns here and now.

The drop-ins start whatever they are asked to; the pool remembers what it took to pin each program. It belongs
to one process: a forked child starts with an empty one. A program that cannot be held is not remembered.
"""

import os
import threading
import weakref
from collections import OrderedDict
from functools import cache

from elfolio.errors import InvalidArgument
from elfolio.spawn.child import Child
from elfolio.spawn.options import Options, StrPath
from elfolio.spawn.template import Arguments, SpawnTemplate

__all__ = ["Pool", "default_pool"]


class Pool:
    """At most `max_templates` templates, one for each absolute path; beyond that the least recently used goes.

    A template leaves by being forgotten, never by `close`: another thread may be spawning from it. The
    templates follow their files (`rebuild=True`), so that an upgraded program is the one that runs.
    """

    def __init__(self, max_templates: int = 64) -> None:
        if max_templates < 1:
            raise InvalidArgument(f"a pool holds at least one template, not {max_templates}")
        self.max_templates = max_templates
        self._empty()
        _pools.add(self)

    def _empty(self) -> None:
        # Reentrant: a signal handler may spawn while the thread it interrupts is in here.
        self._lock = threading.RLock()
        self._templates: OrderedDict[str, SpawnTemplate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._templates)

    def __contains__(self, path: StrPath) -> bool:
        return os.fsdecode(path) in self._templates

    def known(self, path: str) -> SpawnTemplate | None:
        """The template for an absolute path, if there is one already."""
        with self._lock:
            template = self._templates.get(path)
            if template is not None:
                self._templates.move_to_end(path)
            return template

    def get(self, path: StrPath) -> SpawnTemplate:
        """The template for an absolute path, made if there is none; raises what SpawnTemplate raises."""
        key = os.fsdecode(path)
        return self.known(key) or self._keep(key, SpawnTemplate(key, rebuild=True))

    def _keep(self, key: str, made: SpawnTemplate) -> SpawnTemplate:
        evicted = None  # let go of outside the lock: closing files takes its time
        with self._lock:
            template = self._templates.setdefault(key, made)
            self._templates.move_to_end(key)
            if len(self._templates) > self.max_templates:
                evicted = self._templates.popitem(last=False)
        del evicted
        return template

    def drop(self, template: SpawnTemplate) -> None:
        """Forgets `template`, if it is still the one for its path."""
        with self._lock:
            if self._templates.get(str(template.target)) is template:
                del self._templates[str(template.target)]

    def launch(
        self,
        template: SpawnTemplate,
        argv: Arguments,
        options: Options,
        streams: tuple[int, int, int],
        script: str | None = None,
    ) -> Child:
        """`template.launch`. A template that refuses, because the credentials are not those that it was made with
        or because its file is gone, is dropped; a new one is tried, once."""
        try:
            return template.launch(argv, options, streams, script)
        except OSError:
            if _stands(template):
                raise
        self.drop(template)
        return self.get(str(template.target)).launch(argv, options, streams, script)

    def close(self) -> None:
        """Forgets all templates; the pool stays usable."""
        with self._lock:
            forgotten, self._templates = self._templates, OrderedDict()
        forgotten.clear()


def _stands(template: SpawnTemplate) -> bool:
    """Whether the template itself would start its program: then it was something else that failed."""
    try:
        template.check()
    except (OSError, ValueError):
        return False
    return True


_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


def _in_forked_child() -> None:
    """Templates are the parent's, and a lock may be held by a thread that does not exist here."""
    for pool in _pools:
        pool._empty()


os.register_at_fork(after_in_child=_in_forked_child)


@cache
def default_pool() -> Pool:
    """The pool that the drop-ins share, made at the first start."""
    return Pool()
