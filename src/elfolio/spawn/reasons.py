"""spawn.reasons: why a start was not warm, in words. In: codes of the C core, words. Out: texts.

A reason is one of the words here, with what it is about behind a colon: `an open file: /run/lock/x`. By these words
starts are counted (`elfolio.stats()`), so they stay as they are; sentence and mend are for people.
"""

import os
from dataclasses import dataclass

from elfolio import _native

__all__ = ["DRIFTS", "REASONS", "Reason", "outcome_reason", "take_apart"]

DRIFTS = (
    *("nothing", "surroundings unreadable", "root directory", "resource limits", "scheduling", "CPU affinity"),
    *("I/O priority", "timer slack", "oom_score_adj", "memory policy", "coredump filter", "THP or KSM flags"),
    *(
        "personality",
        "keyrings",
        "cgroup",
        "namespaces",
        "session",
        "terminal",
        "seccomp",
        "credentials",
        "Landlock or user namespace",
    ),
)
"""In the order of enum drift (native/surroundings.h)."""

_OUTCOMES = {
    _native.WARM_GONE: "the template's process ended",
    _native.WARM_FROZEN: "the template's process does not answer",
    _native.WARM_BUSY: "too many stopped children",
    _native.WARM_ENVIRONMENT: "a variable read before main differs",
    _native.WARM_TOO_LARGE: "arguments and environment too large",
    _native.WARM_DESCRIPTOR: "a descriptor to be passed is not open",
    _native.WARM_WORN: "rotated",
    _native.WARM_IDLE: "idle",
}


def outcome_reason(outcome: int, detail: int, image: list[tuple[bytes, tuple[int, ...] | None]]) -> str:
    """A short text; the same for the same cause, because it is counted by it."""
    if outcome == _native.WARM_DRIFTED:
        return f"drifted: {DRIFTS[detail]}"
    if outcome == _native.WARM_STALE:
        return f"changed: {os.fsdecode(image[detail][0])}" if detail < len(image) else "changed"
    if outcome == _native.WARM_REFUSED:
        return f"its child could not prepare itself: {os.strerror(detail)}"
    if outcome == _native.WARM_BARREN:
        return f"fork: {os.strerror(detail)}"
    return _OUTCOMES.get(outcome, str(outcome))


@dataclass(frozen=True, slots=True)
class Reason:
    """What a word means, in one sentence, and what would make the start a warm one; "" where nothing would."""

    sentence: str
    mend: str = ""


_NEW_ONE = "Nothing: after some starts a process is made that has this as it is now."
_CARRIED = "Start it without, or cold."
_C_LIBRARY = "Use the distribution's glibc for it, or leave it cold."

REASONS = {
    # asked for, or not yet
    "asked cold": Reason("The template was made with temperature='cold'.", "Ask for 'auto' or 'warm'."),
    "audit strict": Reason(
        "With audit='strict' an exec of the path is promised, for audit rules, and a warm start has no exec.",
        "Use audit='descriptor' where no audit rule watches for this program.",
    ),
    "not yet": Reason(
        "With temperature='auto' a program is held warm once it has been started often enough to pay for it.",
        "Start it more often, or ask for temperature='warm'.",
    ),
    "not tried": Reason("Its next start will try to hold it warm.", "Start it, or explain with try_warm=True."),
    # the program
    "script": Reason(
        "A script's process would be the interpreter's, which has read nothing of it before its main.",
        "Make a template of the interpreter, and give the script as its argument.",
    ),
    "static": Reason(
        "It is linked statically: there is no dynamic linking that could be done ahead.",
        "Link it dynamically, if its start is slow; most static programs start fast.",
    ),
    "set-id": Reason("It is set-user-id or set-group-id: only an exec gives it what it is to have."),
    "file capabilities": Reason("Its file has capabilities: only an exec gives them."),
    "AT_SECURE": Reason(
        "The kernel starts it in secure mode, because the caller's real and effective ids differ.",
        "Spawn from a process whose real and effective ids are the same.",
    ),
    "musl": Reason("It uses musl, whose dynamic linker has no place at which it can be held.", _C_LIBRARY),
    "sanitizer": Reason(
        "A sanitizer's runtime keeps threads, maps and addresses that a fork would not carry over.",
        "Nothing for a test build; build without it for production.",
    ),
    "format": Reason("It is no 64-bit ELF file of this machine that can be taken apart."),
    "unreadable program": Reason("Its file can be executed and not read.", "Give the caller read permission."),
    "unreadable object": Reason("One of its libraries cannot be read.", "Give the caller read permission."),
    "unknown dynamic linker": Reason("Its dynamic linker is not one that elfolio knows (glibc's).", _C_LIBRARY),
    "unknown C library": Reason("Its C library is not one that elfolio knows (glibc).", _C_LIBRARY),
    "search path": Reason(
        "Its library search path has parts that depend on where it is started.", "Use absolute directories or $ORIGIN."
    ),
    # what its libraries' constructors did
    "threads at main": Reason("A library starts a thread before main, and a fork carries over one thread only."),
    "a child process at main": Reason("A library starts a process before main, which would be another's child."),
    "a timer": Reason("A library sets a timer before main, and timers are not carried over by a fork."),
    "a file lock": Reason("A library locks a file before main, and the lock would be all children's at once."),
    "a lock": Reason("A library holds a mutex at main, whose owner would be another task."),
    "a socket": Reason("A library opens a socket before main, which all children would share."),
    "an open file": Reason("A library opens a file before main, whose position all children would share."),
    "an atfork handler": Reason(
        "A library registers a fork handler before main: it does not expect to be forked without it."
    ),
    "locked memory": Reason("A library locks memory before main, and a fork does not carry that over."),
    "shared memory": Reason("A library maps shared memory before main, which all children would write to."),
    "memory that a fork does not copy": Reason("A library marks memory before main as not to be copied by a fork."),
    "a constructor that changed the process": Reason(
        "A library changes credentials, masks or names of the process before main."
    ),
    "reads of the environment without end": Reason("A library asks for thousands of variables before main."),
    # where it is started
    "a loader variable": Reason(
        "A variable that the dynamic linker obeys is set: what is loaded may change between two starts.",
        "Unset it for this program, with env or env_allow (--env-allow).",
    ),
    "seccomp": Reason(
        "A seccomp filter on this process refuses ptrace, by which a program is brought to its entry.",
        "Allow ptrace in the container's or service's profile.",
    ),
    "ptrace": Reason(
        "The program could not be traced up to its entry.",
        "Where ptrace is restricted (Yama's ptrace_scope of 3, a debugger on this process), lift that.",
    ),
    "a small stack limit": Reason(
        "RLIMIT_STACK leaves too little room for the arguments of a warm child.", "Raise it: ulimit -s 8192."
    ),
    "kernel": Reason(
        "The kernel lacks, or a filter refuses, what a child of a template needs: PR_GET_TID_ADDRESS, close_range.",
        "Use Linux 5.9 or later with CONFIG_CHECKPOINT_RESTORE, and a profile that allows them.",
    ),
    "surroundings": Reason(
        "The surroundings of the template's process are not this one's, or may not be compared (kcmp is refused).",
        "Allow kcmp in the container's or service's profile.",
    ),
    "a shadow stack": Reason("The program has a shadow stack, which does not let a child enter it."),
    "memory": Reason("There is no memory for the code that a warm process runs.", "Raise RLIMIT_AS, or free memory."),
    "resources": Reason(
        "A system call that starts the process failed.", "Raise the limit that it names; it is tried again later."
    ),
    "launch": Reason("The program could not be started.", "Start it once by itself: the error says why."),
    "changing": Reason("A library was changed while the program was starting.", "Nothing: it is tried again later."),
    # this start
    "memory_merge takes effect at exec": Reason("PR_SET_MEMORY_MERGE counts from an exec on.", _CARRIED),
    "credentials take effect at exec": Reason(
        "Another user or group: an exec decides what such a process may do.",
        "Make the template in a process of that user.",
    ),
    "pdeathsig is about the thread that spawns": Reason(
        "The signal would come when the warm process's parent thread ends, not the caller's.", _CARRIED
    ),
    "inherit_fds: what would be inherited is not known": Reason(
        "Every inheritable descriptor would have to be sent along.", "Name them in pass_fds."
    ),
    "a cgroup is one of birth": Reason("A child is born into a cgroup, and a warm one is born already.", _CARRIED),
    "rlimits that are read at the start": Reason(
        "RLIMIT_STACK, RLIMIT_AS and RLIMIT_DATA shape the address space at exec.",
        "Set them in the caller before the template is made.",
    ),
    "a path through /proc": Reason(
        "Such a path may lead to descriptors or memory of the one that opens it, which is another here.",
        "Open it first, and pass the descriptor.",
    ),
    "descriptors: too many to send": Reason(
        f"One request takes fewer than {_native.WARM_FDS} descriptors.", "Pass fewer."
    ),
    # this start, or a process that was warm
    "the template's process ended": Reason("The warm process was killed.", "Nothing: a new one is started."),
    "the template's process does not answer": Reason(
        "The warm process is stopped, or gets no processor.", "Nothing: it is replaced."
    ),
    "too many stopped children": Reason("As many children as fit are on their way.", "Nothing: the next is warm."),
    "a variable read before main differs": Reason(
        "A library read a variable before main, and this start gives it another value.",
        "Give each value a template of its own.",
    ),
    "arguments and environment too large": Reason("They do not fit into one message.", "Pass them by a file."),
    "a descriptor to be passed is not open": Reason("The kernel cannot send what is not open."),
    "rotated": Reason(
        "The warm process has served its number of children, or its time; a new one has a new address-space layout.",
        "Raise rotate_after or max_age, if a shared layout does not matter.",
    ),
    "idle": Reason(
        "The warm process was not asked for two seconds and has ended: it is nobody's child for long.",
        "Nothing: some dozens of starts bring it back. temperature='warm' keeps it.",
    ),
    "changed": Reason("A library, the linker's cache or a search directory has changed.", "Nothing: it is replaced."),
    "its child could not prepare itself": Reason("A system call of the prepared child failed."),
    "fork": Reason("The warm process cannot fork.", "Raise RLIMIT_NPROC, or the cgroup's pids.max."),
    **{
        f"drifted: {what}": Reason(f"The caller's {what} changed since the warm process was born.", _NEW_ONE)
        for what in DRIFTS[2:]
    },
    "drifted: surroundings unreadable": Reason(
        "What a child would inherit cannot be read from /proc.", "Mount /proc, and let the caller read its own."
    ),
}
"""Every word that a start is refused a warm process with."""


def take_apart(text: str) -> tuple[str, str]:
    """A counted text as a word of REASONS and what it is about, "" for nothing: `changed: /lib/x` is about
    /lib/x. Texts of another kind come back whole."""
    text = text.removeprefix("warm: ")
    if text in REASONS:
        return text, ""
    word, colon, about = text.partition(": ")
    return (word, about) if colon and word in REASONS else (text, "")
