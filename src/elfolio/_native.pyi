"""_native: the C core as Python sees it (native/module.c)."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Self, TypeAlias, TypeVar, final

Strings: TypeAlias = Sequence[object]
Usage: TypeAlias = tuple[float, float, int, int, int, int, int, int, int, int, int, int, int, int, int, int]
Refusal: TypeAlias = tuple[int, int, int, int, int]
"""status (IMAGE_*), detail, index of the held file, errno, failed step."""

class Counts:
    started: int
    warm: int
    elsewhere: int
    check_ns: int
    launch_ns: int
    life_ns: int

class Process:
    pid: int
    pidfd: int
    how: int
    warm: int
    warm_detail: int
    @property
    def temperature(self) -> str: ...
    @property
    def returncode(self) -> int | None: ...
    @property
    def usage(self) -> Usage | None: ...
    on_end: Callable[[], object] | None
    def wait(self, timeout: float | None = None) -> int: ...
    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def detach(self) -> int: ...

_P = TypeVar("_P", bound=Process)

@final
class Steps:
    def __new__(cls, steps: bytes, blob: bytes, /) -> Steps: ...

@final
class WarmPlan:
    def __new__(
        cls,
        steps: Steps,
        flags: int,
        sources: Sequence[int],
        targets: Sequence[int],
        kept: Sequence[int],
        highest: int,
        may_fail: bool,
        may_block: bool,
        repeatable: bool,
        /,
    ) -> WarmPlan: ...

@final
class Surroundings:
    def __new__(cls) -> Surroundings: ...
    def differ(self, other: Surroundings, /) -> int: ...

@final
class Proxy:
    def __new__(cls) -> Proxy: ...
    def meet(self, options: int, /) -> None: ...
    def result(self) -> int: ...
    def call(self, number: int, *arguments: object) -> int: ...
    def regset(self, request: int, pid: int, type: int, buffer: bytearray, /) -> int: ...
    def close(self) -> None: ...

@final
class Warm:
    def __new__(
        cls,
        socket: int,
        taken: int,
        slots: int,
        peer_inode: int,
        surroundings: Surroundings,
        rotate_after: int,
        max_age_ns: int,
        idle_ns: int,
        /,
    ) -> Warm: ...
    def stand(
        self,
        pid: int,
        pidfd: int,
        objects: list[tuple[bytes, tuple[int, ...] | None]],
        environment: list[bytes],
        whole: bool,
        variables: list[bytes],
        /,
    ) -> None: ...
    def descriptors(self) -> tuple[int, int, int]: ...
    def close(self) -> None: ...
    def drift(self) -> int: ...
    def idle(self) -> bool: ...
    def facts(self) -> tuple[int, int, int, int, int]: ...

@final
class Image:
    def __new__(cls, files: list[tuple[bytes | None, int]], executed: int, lease: bool, /) -> Image: ...
    def check(self) -> Refusal | None: ...
    def launch(
        self,
        type: type[_P],
        counts: Counts,
        argv: Strings,
        env: Set[bytes] | Mapping[str, str] | object | None,
        steps: Steps,
        path: bytes | None,
        exec_fd: int,
        cgroup_fd: int,
        flags: int,
        strict: bool,
        warm: Warm | None = None,
        warm_plan: WarmPlan | None = None,
        proxy: Proxy | None = None,
        /,
    ) -> _P | Refusal: ...
    def key(self, index: int, /) -> tuple[int, int, int, int, int, int, int, int, int, int]: ...
    def leasable(self) -> bool: ...

@final
class Capture:
    def __new__(
        cls,
        pidfd: int,
        ends: list[int],
        input: bytes | bytearray | memoryview | None,
        limit: int,
        spill_out: int,
        spill_err: int,
        /,
    ) -> Capture: ...
    def run(self, deadline_ns: int, until: int, /) -> int: ...
    def output(self, stream: int, /) -> tuple[bytes, bytes, int, int, int]: ...
    def fileno(self) -> int: ...
    def ends(self) -> tuple[int, int]: ...
    def close(self) -> None: ...

class Memory:
    def __new__(cls, address: int, room: int, skip: int, length: int, keep: object, /) -> Self: ...
    @property
    def address(self) -> int: ...
    def close(self) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def await_end(pidfd: int, deadline_ns: int, /) -> bool: ...
def take_status(pidfd: int, /) -> tuple[int, int, Usage | None] | None: ...
def record(
    path: bytes, argv: list[bytes], env: list[bytes], fd: int, faults: bool, /
) -> tuple[int, int, str | None, int]: ...
def file_folios(
    fd: int, pagemap: int, kpageflags: int, pmd: int, first: int, pages: int, /
) -> tuple[bytes, int, int, int]: ...
def cache_stat(fd: int, start: int, length: int, /) -> tuple[int, int, int, int, int]: ...
def mincore_truthful(fd: int, size: int, /) -> bool: ...
def file_system(fd: int, /) -> int: ...
def frame_cache() -> object: ...
def populate(address: int, size: int, huge: int, pagemap: int, /) -> tuple[int, int]: ...
def ring_read(
    fd: int,
    to: int,
    offset: int,
    room: int,
    least: int,
    chunk: int,
    depth: int,
    progress: Callable[[int], object] | None,
    /,
) -> bool: ...
def page_folios(
    pagemap: int,
    kpageflags: int,
    kpagecount: int,
    pmd: int,
    cont: int,
    first: int,
    pages: int,
    summing: bool,
    cache: object,
    /,
) -> tuple[bytes, int, int]: ...

OP_CLOSE: int
OP_DUP2: int
OP_FCHDIR: int
OP_CHDIR: int
OP_OPEN: int
OP_CLOSE_RANGE: int
OP_SIGMASK: int
OP_SIGDEFAULT: int
OP_SAVE: int
OP_RESTORE: int
OP_KEEP: int
OP_UMASK: int
OP_RLIMIT: int
OP_NICE: int
OP_SETSID: int
OP_SETPGID: int
OP_TERMINAL: int
OP_GROUPS: int
OP_GID: int
OP_UID: int
OP_NO_NEW_PRIVS: int
OP_PDEATHSIG: int
OP_OOM_SCORE: int
OP_AFFINITY: int
OP_MERGE: int
STEP_EXEC: int
STEP_CGROUP: int
STEP_CLONE: int
STEP_PIDFD: int
LAUNCH_COPY_MEMORY: int
LAUNCH_REPEATABLE: int
LAUNCH_WHOLE: int
HOW_NO_CLONE3: int
HOW_PIDFD_OPENED: int
HOW_NAME_LOST: int
HOW_COPIED_MEMORY: int
HOW_RETRIED_BUSY: int
LOST_CODE: int
HOW_WARM: int
STEP_TRACE: int
STEP_WARM: int
WARM_STARTED: int
WARM_STEP_FAILED: int
WARM_LOST: int
WARM_FORBIDDEN: int
WARM_REFUSED: int
WARM_GONE: int
WARM_FD_SLOTS: int
WARM_SLOT_BYTES: int
WARM_FROZEN: int
WARM_BARREN: int
WARM_BUSY: int
WARM_DRIFTED: int
WARM_STALE: int
WARM_ENVIRONMENT: int
WARM_TOO_LARGE: int
WARM_DESCRIPTOR: int
WARM_WORN: int
WARM_IDLE: int
WARM_UNTRIED: int
WARM_FDS: int
WARM_FD_FIRST: int
WARM_FD_LAST: int
WARM_FD_CONTROL: int
WARM_FD_OWNER: int
WARM_FD_TAKEN: int
WARM_ROOM: int
WARM_MAGIC: int
PROXY_MEET: int
MACHINE: int
IMAGE_READY: int
IMAGE_FOREIGN: int
IMAGE_UNAUTHORIZED: int
IMAGE_STALE: int
IMAGE_FAILED: int
IMAGE_CHANGED: int
IMAGE_OBJECT: int
ENDED: int
ENDED_TAKEN: int
ENDED_LOST: int
CAPTURE_OPEN: int
CAPTURE_ALIVE: int
CAPTURE_INPUT: int

@final
class Buddy:
    def __new__(cls, pages: int, seed: int, /) -> Buddy: ...
    def take(self, order: int, kind: int, owner: int, pages: int, flags: int, /) -> int: ...
    def read(self, kind: int, owner: int, start: int, pages: int, order: int, window: int, flags: int, /) -> int: ...
    def drop(self, owner: int, per_mille: int, /) -> int: ...
    def forget(self, kind: int, owner: int, /) -> None: ...
    def pin(self, page: int, order: int, kind: int, owner: int, /) -> bool: ...
    def map(self, flags: bytes | bytearray, unused: int, used: int, /) -> None: ...
    def watermarks(self, low: int, middle: int, high: int, /) -> None: ...
    def compact(self) -> None: ...
    def copy(self) -> Buddy: ...
    def retype(self, block: int, kind: int, /) -> None: ...
    def free_counts(self) -> tuple[int, ...]: ...
    def done(self) -> tuple[int, ...]: ...
    def levels(self) -> tuple[int, int, int, int]: ...
    def blocks(self) -> bytes: ...
    def orders(self, kind: int, owner: int, /) -> tuple[int, ...]: ...
