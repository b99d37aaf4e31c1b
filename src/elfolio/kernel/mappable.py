"""kernel.mappable: what a file descriptor brings to mmap. In: facts of an open file. Out: Mappable, frozen.

Which merging, placing and KSM rules hold for a mapping depends on the file's f_op and vm_ops: whether the file system
has mmap_prepare, get_unmapped_area, close. A file system has them since some version; that is data here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from elfolio.kernel.filesystems import filesystem
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import OpenFile
from elfolio.kernel.switches import Version

__all__ = ["MMAP_PREPARE", "Mappable", "of_policy"]

_PREPARING = (
    "ext4 ext3 ext2 xfs btrfs f2fs nfs squashfs erofs vfat exfat ntfs ntfs3 afs affs adfs 9p bfs ceph cifs smb3 hfs "
    "hfsplus hostfs hpfs jffs2 jfs minix nilfs2 ocfs2 omfs orangefs ramfs romfs ubifs ufs vboxsf zonefs"
)
MMAP_PREPARE: Mapping[str, Version] = MappingProxyType(dict.fromkeys(_PREPARING.split(), (6, 17)))
"""File system -> the version from which its f_op has mmap_prepare in place of mmap. Read in 7.2.13, where fuse,
overlay, gfs2, ecryptfs, proc and hugetlbfs still have mmap; the release is that of kernel-policies' mmap_prepare_files.
"""


_PLACING = frozenset(("ramfs", "proc", "sysfs", "kernfs"))
"""File systems with a get_unmapped_area of their own; read in 7.2.13."""


@dataclass(frozen=True, slots=True)
class Mappable:
    """One struct file, as mmap sees it. Equal values are one struct file: `file.opening` tells two openings apart."""

    file: OpenFile
    size: int = 1 << 62
    """In bytes; a page that begins at or after it gives SIGBUS. The default stands for one that nobody knows."""
    kind: str = "regular"
    """regular; shmem: memfd, tmpfs, shared anonymous memory, SysV; hugetlb; device; none: it cannot be mapped."""
    fs: str = "ext4"
    """Its file system, as statfs calls it."""
    readable: bool = True
    writable: bool = True
    closes: bool = False
    """Whether its mappings have vm_ops->close."""
    dax: bool = False
    noexec: bool = False
    """Whether it lies on a mount with noexec."""
    adds: int = 0
    """VmFlags that its driver's mmap sets: DONTEXPAND, PFNMAP, ..."""

    def __hash__(self) -> int:
        # Equal values have these equal, and few others do; all twelve fields would cost a replay more than a lookup.
        return hash((self.file.inode, self.file.opening))

    @property
    def shmem(self) -> bool:
        """shmem_file()."""
        return self.kind == "shmem"

    @property
    def places_itself(self) -> bool:
        """Whether its f_op has a get_unmapped_area of its own, that of shmem and huge pages apart."""
        return self.kind == "device" or self.fs in _PLACING

    def prepares(self, policy: Policy) -> bool:
        """Whether its f_op has mmap_prepare."""
        since = MMAP_PREPARE.get(self.fs)
        if self.kind != "regular" or since is None or not policy["mmap_prepare_files"]:
            return False
        return policy.version[:2] >= since

    def places_for_huge_pages(self, policy: Policy) -> bool:
        """Whether its f_op has thp_get_unmapped_area."""
        if self.kind != "regular":
            return False
        return filesystem(self.fs).aligns_since <= policy.version[:2] and bool(policy["file_thp_placement"])

    def has_mmap(self, policy: Policy) -> bool:
        """Whether its f_op has mmap: what can be mapped has that or mmap_prepare, never both."""
        return not self.prepares(policy)


def of_policy(policy: Policy, file: OpenFile, size: int = 1 << 62) -> Mappable:
    """A program or a library on the policy's file system; `size` in bytes."""
    name = policy.fs.name
    return Mappable(file, size, "shmem" if name == "tmpfs" else "regular", name, writable=False)
