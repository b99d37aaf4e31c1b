"""cli.child_options: the options for what a command starts with. In: a parser; its values. Out: keywords.

For every command that starts another: the keywords are those of `SpawnTemplate.spawn`.
"""

import argparse
import os
from typing import TYPE_CHECKING

from elfolio.cli.parsing import Failure, Parser, assignment, byte_count, niceness, octal

if TYPE_CHECKING:
    from elfolio.spawn.options import SpawnKeywords

__all__ = ["add_child_options", "child_keywords"]


def add_child_options(parser: Parser) -> None:
    """Adds the options."""
    _add_state(parser.add_argument_group("what CMD starts with"))
    _add_authority(parser.add_argument_group("what CMD may do"))


def _add_state(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--cwd", metavar="DIR", help="working directory; a relative CMD is looked for from there")
    group.add_argument(
        "--env", type=assignment, action="append", default=[], metavar="NAME=VALUE",
        help="set a variable; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--env-allow", action="append", metavar="NAME",
        help="pass on only the variables named so, and those of --env; repeatable",
    )  # fmt: skip
    group.add_argument("--umask", type=octal, metavar="MASK", help="file mode creation mask, in octal")
    group.add_argument("--nice", type=niceness, default=0, metavar="N", help="add N to the niceness")
    group.add_argument(
        "--rlimit", type=_rlimit, action="append", default=[], metavar="NAME=SOFT[:HARD]",
        help="a resource limit, such as nofile=1024:4096 or as=2G; HARD is SOFT unless given; repeatable",
    )  # fmt: skip
    group.add_argument("--cgroup", metavar="DIR", help="start CMD in this cgroup v2 directory")
    group.add_argument(
        "--private-cgroup", action="store_true",
        help="start CMD in a new cgroup below --cgroup or this process's; removed at the end unless "
        "something lives in it",
    )  # fmt: skip
    group.add_argument(
        "--new-session", action="store_true",
        help="start CMD in a session of its own, without a terminal; ^C here is then passed on",
    )  # fmt: skip
    group.add_argument("--close-fds", action="store_true", help="pass no descriptors but 0, 1 and 2")


def _add_authority(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--user", metavar="USER",
        help="become this user, a name or number, with all the user's groups",
    )  # fmt: skip
    group.add_argument("--group", metavar="GROUP", help="become this group, instead of the user's own")
    group.add_argument("--no-new-privs", action="store_true", help="set-id programs give CMD no privileges")
    group.add_argument(
        "--strict", action="store_true",
        help="execute the path itself, for audit rules and AT_EXECFN, and check afterwards what runs",
    )  # fmt: skip


def _rlimit(text: str) -> tuple[int, tuple[int, int]]:
    import resource

    name, _, values = text.partition("=")
    number = getattr(resource, f"RLIMIT_{name.upper().removeprefix('RLIMIT_')}", None)
    if not isinstance(number, int):
        known = ", ".join(sorted(n[7:].lower() for n in dir(resource) if n.startswith("RLIMIT_")))
        raise argparse.ArgumentTypeError(f"no limit {name!r}; there are {known}")
    soft, colon, hard = values.partition(":")
    return number, (_limit(soft), _limit(hard if colon else soft))


def _limit(text: str) -> int:
    import resource

    return resource.RLIM_INFINITY if text in ("unlimited", "-1") else byte_count(text)


def child_keywords(args: argparse.Namespace) -> "SpawnKeywords":
    """The options as `SpawnTemplate.spawn` calls them."""
    keywords: SpawnKeywords = {
        "inherit_fds": not args.close_fds,
        "nice": args.nice,
        "rlimits": dict(args.rlimit),
        "start_new_session": args.new_session,
        "private_cgroup": args.private_cgroup,
        "no_new_privs": args.no_new_privs,
        "cgroup": args.cgroup,
        **_identity(args),
    }
    if args.umask is not None:
        keywords["umask"] = args.umask
    if args.cwd is not None:
        keywords["cwd"] = _directory(args.cwd)
    if args.env:
        names = {os.fsencode(name) for name in args.env_allow} if args.env_allow is not None else os.environb
        keywords["env"] = {k: v for k, v in os.environb.items() if k in names} | dict(args.env)
    elif args.env_allow is not None:
        keywords["env_allow"] = args.env_allow
    return keywords


def _directory(path: str) -> str:
    """Checked here, lest a relative command be said not to exist."""
    try:
        os.stat(f"{path}/.")
    except OSError as error:
        raise Failure(f"--cwd: {error.strerror}: {path!r}") from error
    return path


def _identity(args: argparse.Namespace) -> "SpawnKeywords":
    """User and groups as a login would give them."""
    keywords: SpawnKeywords = {}
    if args.group is not None:
        keywords["group"] = _group(args.group)
    if args.user is not None:
        import pwd

        try:
            entry = pwd.getpwuid(int(args.user)) if args.user.isdecimal() else pwd.getpwnam(args.user)
        except (KeyError, OverflowError):
            raise Failure(f"--user: there is no user {args.user!r}") from None
        keywords["user"] = entry.pw_uid
        group = keywords.setdefault("group", entry.pw_gid)
        keywords["extra_groups"] = os.getgrouplist(entry.pw_name, int(group or 0))
    return keywords


def _group(text: str) -> int:
    import grp

    if text.isdecimal():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise Failure(f"--group: there is no group {text!r}") from None
