"""kernel.prctls: prctl's options about memory. In: Mm, an operation. Out: 0, what is asked for, or -errno.

PR_SET_MEMORY_MERGE, PR_SET_MDWE and PR_SET_THP_DISABLE with their readers (kernel/sys.c).
"""

from errno import EINVAL, EPERM

from elfolio.kernel import ksm
from elfolio.kernel.abi import (
    PR_GET_MDWE,
    PR_GET_MEMORY_MERGE,
    PR_GET_THP_DISABLE,
    PR_SET_MDWE,
    PR_SET_MEMORY_MERGE,
    PR_SET_THP_DISABLE,
)
from elfolio.kernel.calls import Prctl
from elfolio.kernel.mm import Mm

__all__ = ["prctl"]

_REFUSE_EXEC_GAIN, _NO_INHERIT = 1, 2
_EXCEPT_ADVISED = 2


def prctl(mm: Mm, op: Prctl) -> int:
    """prctl(2); an option that is none of these is EINVAL."""
    option = op.option
    if option in (PR_SET_MEMORY_MERGE, PR_GET_MEMORY_MERGE):
        return _memory_merge(mm, op)
    if option in (PR_SET_MDWE, PR_GET_MDWE):
        return _mdwe(mm, op)
    if option in (PR_SET_THP_DISABLE, PR_GET_THP_DISABLE):
        return _thp_disable(mm, op)
    return -EINVAL


def _memory_merge(mm: Mm, op: Prctl) -> int:
    if not mm.policy["ksm_merge_any"] or op.arg3 or op.arg4 or op.arg5:
        return -EINVAL
    if op.option == PR_GET_MEMORY_MERGE:
        return -EINVAL if op.arg2 else int(mm.merge_any)
    if op.arg2:
        ksm.enable(mm)
    else:
        ksm.disable(mm)
    return 0


def _mdwe(mm: Mm, op: Prctl) -> int:
    if not mm.policy["mdwe"] or op.arg3 or op.arg4 or op.arg5:
        return -EINVAL
    if op.option == PR_GET_MDWE:
        return -EINVAL if op.arg2 else mm.mdwe
    known = _REFUSE_EXEC_GAIN | (_NO_INHERIT if mm.policy.version[:2] >= (6, 6) else 0)
    if op.arg2 & ~known or (op.arg2 & _NO_INHERIT and not op.arg2 & _REFUSE_EXEC_GAIN):
        return -EINVAL
    if mm.mdwe and mm.mdwe != op.arg2:
        return -EPERM  # it cannot be taken back
    mm.mdwe = op.arg2
    return 0


def _thp_disable(mm: Mm, op: Prctl) -> int:
    if op.option == PR_GET_THP_DISABLE:
        return -EINVAL if op.arg2 or op.arg3 or op.arg4 or op.arg5 else mm.thp_disable
    partly = mm.policy.version[:2] >= (6, 18)
    if op.arg4 or op.arg5 or (op.arg3 and not partly):
        return -EINVAL
    if op.arg3 & ~_EXCEPT_ADVISED or (op.arg3 and not op.arg2):
        return -EINVAL
    mm.thp_disable = (1 | op.arg3) if op.arg2 else 0
    return 0
