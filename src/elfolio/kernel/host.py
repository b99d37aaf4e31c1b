"""kernel.host: what a machine and a caller decide of an exec. In: numbers. Out: Host; with randomisation off.

Every address of a new process follows from these. The figures are those of the architecture (arch/x86/include/asm/
page_64_types.h, elf.h; arch/arm64/include/asm/processor.h, elf.h) and of what a plain shell hands down.
"""

from dataclasses import dataclass, replace

from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace
from elfolio.span import MappedAddress, round_up

__all__ = ["Host", "default_host", "observed", "with_large_addresses"]

_GAP_LEAST = 128 << 20
"""SIZE_128M: the stack always has this room above the mappings (mmap_base, arch/x86/mm/mmap.c, mm/util.c)."""


STACK_EXPAND = 131072
"""stack_expand of setup_arg_pages (fs/exec.c): what a stack gets beyond its strings."""


@dataclass(frozen=True, slots=True)
class Host:
    """Sizes in bytes. Randomisation off (ADDR_NO_RANDOMIZE) throughout."""

    bits: int = 64
    task_size: int = 0x7FFFFFFFF000
    """TASK_SIZE: one above the highest user address. What an address is checked against."""
    window: int = 0x7FFFFFFFF000
    """DEFAULT_MAP_WINDOW: one above the highest address that is given to whoever hints at no higher one. Below
    TASK_SIZE only where processor and kernel have more bits of address than programs were once built for."""
    window_share: int = 3
    """TASK_UNMAPPED_BASE is the window divided by this."""
    stack_top: int = 0x7FFFFFFFF000
    """STACK_TOP."""
    et_dyn_base: int = 0x555555554AAA
    """ELF_ET_DYN_BASE, not rounded."""
    stack_limit: int = 8 << 20
    """RLIMIT_STACK's soft limit."""
    stack_guard: int = 1 << 20
    """stack_guard_gap, kept free below a stack: 256 pages."""
    mmap_min_addr: int = 65536
    privileged: bool = False
    """Whether it may map below that (CAP_SYS_RAWIO)."""
    strings: int = 2048
    """Of the path, the arguments and the environment, each with its NUL: they lie at the top of the stack."""
    vvar: int = 16384
    """Of [vvar]; where vvar_vclock is on, without [vvar_vclock]."""
    vvar_vclock: int = 8192
    vdso: int = 8192
    vsyscall: str = "--x"
    """Permissions of the [vsyscall] page: `--x` (CONFIG_LEGACY_VSYSCALL_XONLY), `r-x` (emulate), empty for none."""
    memory: int | None = None
    """RAM and swap: what one mapping asks for above it is refused (OVERCOMMIT_GUESS). None: no limit."""

    @property
    def mmap_base(self) -> MappedAddress:
        """Below it, mappings without an address are placed."""
        gap = max(_GAP_LEAST, min(self.stack_limit + self.stack_guard, self.window // 6 * 5))
        return MappedAddress(round_up(self.window - gap, 4096))

    @property
    def bottom(self) -> MappedAddress:
        """TASK_UNMAPPED_BASE: where the search begins that follows when nothing is free below mmap_base."""
        return MappedAddress(round_up(self.window // self.window_share, 4096))

    def end(self, hint: int) -> int:
        """Where the search for room ends that such a hint begins (arch_get_mmap_end; task_size_64bit on x86)."""
        return self.task_size if hint > self.window else self.window

    def above(self, hint: int) -> int:
        """How far such a hint lifts mmap_base (arch_get_mmap_base; arch_get_unmapped_area_topdown on x86)."""
        return self.end(hint) - self.window


_I386 = Host(
    bits=32,
    task_size=0xFFFFE000,
    window=0xFFFFE000,
    stack_top=0xFFFFE000,
    et_dyn_base=0x56555000,  # COMPAT_ELF_ET_DYN_BASE: TASK_UNMAPPED_BASE + 0x1000000
    vsyscall="",
)
_WINDOW_BITS = {16384: 47}
"""DEFAULT_MAP_WINDOW of aarch64 by page size, 48 else: what is mapped without a hint above it lies below, however many
bits of address the kernel was built for (VA_BITS_MIN, arch/arm64/include/asm/memory.h; seen on 6.12.117)."""
_LARGE = {"x86_64": (1 << 56) - 4096, "aarch64": 1 << 52}
"""TASK_SIZE with five levels of page tables (CR4.LA57), and with LPA2 or LVA (arch/arm64/include/asm/processor.h)."""
_AARCH64 = Host(
    window_share=4,
    vsyscall="",
    vvar=8192,
    vvar_vclock=0,
    vdso=8192,
)


def default_host(policy: Policy, bits: int = 64) -> Host:
    """A machine of the policy's kind, for programs of so many bits, where nothing was probed."""
    if policy.machine == "aarch64":
        scale = policy.page_size // 4096
        window = 1 << _WINDOW_BITS.get(policy.page_size, 48)
        return replace(
            _AARCH64,
            task_size=window,
            window=window,
            stack_top=window,
            et_dyn_base=2 * window // 3,
            vvar=8192 * scale,
            vdso=max(policy.page_size, 8192),
            stack_guard=256 * policy.page_size,
        )
    clocks = bool(policy["vvar_vclock"])
    host = Host() if bits == 64 else replace(_I386, vdso=int(policy["vdso32_bytes"]))
    return host if clocks else replace(host, vvar=16384, vvar_vclock=0)


def with_large_addresses(host: Host, machine: str) -> Host:
    """The same on a processor, and with a kernel, that have all the bits of address that the architecture knows. Where
    they are, what a hint above the window asks for lies above it; all else stays where it was."""
    return replace(host, task_size=_LARGE[machine]) if host.bits == 64 else host


def observed(host: Host, space: AddressSpace, page: int) -> Host:
    """The same with what an address space recorded at a first instruction shows of its machine and its caller: the
    sizes of the vdso's mappings, the vsyscall page, and how many pages the strings took. Where these lie is still for
    the model to say."""
    sizes = {vma.name: vma.size for vma in space}
    gate = next((vma.perms[:3] for vma in space if vma.name == "[vsyscall]"), "")
    used = max(page, sizes.get("[stack]", 0) - STACK_EXPAND)
    return replace(
        host,
        vvar=sizes.get("[vvar]", 0),
        vvar_vclock=sizes.get("[vvar_vclock]", 0),
        vdso=sizes.get("[vdso]", 0),
        vsyscall=gate,
        strings=used - host.bits // 8,
    )
