"""Makes the kernel refuse chosen system calls of this process, as container profiles and old kernels do."""

import ctypes
import errno
import platform
import struct

_X86_64 = {
    "ioctl": 16,
    "cachestat": 451,
    "clone": 56,
    "getdents64": 217,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_open": 434,
    "lsm_get_self_attr": 459,
    "execveat": 322,
    "execve": 59,
    "fcntl": 72,
    "mmap": 9,
    "prctl": 157,
    "ptrace": 101,
}
_AARCH64 = {**_X86_64, "ioctl": 29, "clone": 220, "getdents64": 61, "execveat": 281, "execve": 221} | {
    "fcntl": 25,
    "mmap": 222,
    "prctl": 167,
    "ptrace": 117,
}

# include/uapi/linux/bpf_common.h, seccomp.h, prctl.h
_LOAD, _EQUAL, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x45, 0x06, 0x54
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_NUMBER_AT, _ARGUMENTS_AT = 0, 16

ENOSYS = errno.ENOSYS
EPERM = errno.EPERM
EINVAL = errno.EINVAL
KILL = 1 << 16
"""In the place of an errno: the process is killed."""
PR_SET_MEMORY_MERGE = 67
CLONE_PIDFD = 0x1000
PIDFD_GET_INFO = 0xFF0B
"""Type and number of the ioctl; its size has grown with the kernel."""


def deny(*rules: tuple[str, int] | tuple[str, int, int, int, int]) -> None:
    """From now on (name, errno) fails with that errno; (name, errno, argument, mask, value) does where the
    lower half of that argument, masked, is `value`."""
    numbers = _X86_64 if platform.machine() == "x86_64" else _AARCH64
    program: list[tuple[int, int, int, int]] = []
    for rule in rules:
        answer = (_RETURN, 0, 0, _KILL if rule[1] == KILL else _ERRNO | rule[1])
        load = (_LOAD, 0, 0, _NUMBER_AT)
        if len(rule) == 2:
            program += [load, (_EQUAL, 0, 1, numbers[rule[0]]), answer]
        else:
            _, _, argument, mask, value = rule
            program += [load, (_EQUAL, 0, 4, numbers[rule[0]])]
            program += [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument), (_AND, 0, 0, mask)]
            program += [(_EQUAL, 0, 1, value), answer]
    program.append((_RETURN, 0, 0, _ALLOW))
    _install(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))


def _install(code: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a count, padding, a pointer
    header = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    # Without CAP_SYS_ADMIN the kernel wants no_new_privs first.
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, header, 0, 0):
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.prctl(_PR_SET_SECCOMP, _FILTER, header, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")
