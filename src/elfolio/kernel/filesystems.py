"""kernel.filesystems: what a file system allows of folios and placement. In: its name. Out: Filesystem.

The name is the one that /proc/self/mountinfo shows. Sizes are upper bounds that the file system sets for a mapping
(mapping_set_folio_order_range, mapping_set_large_folios); what a file then gets depends on how it was written and read.
"""

from dataclasses import dataclass, replace

from elfolio.kernel.switches import Version

__all__ = ["FILESYSTEMS", "Filesystem", "filesystem", "on_layer"]

_NEVER: Version = (9999,)
_MANY = 1 << 40
"""No limit of its own."""


@dataclass(frozen=True, slots=True)
class Filesystem:
    """One kind of file system."""

    name: str
    large_folios_since: Version = _NEVER
    """The kernel from which ordinary files may have folios larger than a page."""
    largest: int = _MANY
    """Bytes of the largest folio that it allows with blocks of 4 KiB, before the page cache's own limit."""
    experimental: bool = False
    """Large folios only with an experimental build option, which no distribution sets."""
    aligns_since: Version = _NEVER
    """The kernel from which file_operations.get_unmapped_area is thp_get_unmapped_area, which aligns mappings that
    ask for no address; before 5.18 that function acted for DAX only (the switch file_thp_placement)."""
    source: str = ""
    layer: str = ""
    """Of an overlay: the file system of the layer that has the file; empty where that cannot be told."""

    @property
    def is_hidden(self) -> bool:
        """Whether its folios are those of another file system, nobody can tell of which."""
        return self.name == "overlay" and not self.layer

    @property
    def title(self) -> str:
        """For people: `ext4`, `overlay over xfs`."""
        return f"{self.name} over {self.layer}" if self.layer else self.name


FILESYSTEMS: dict[str, Filesystem] = {
    entry.name: entry
    for entry in (
        Filesystem(
            "ext4", (6, 16), 8 << 20, False, (4, 10),
            "fs/ext4/file.c, ext4_set_inode_mapping_order; not for encrypted files, nor with data=journal",
        ),
        Filesystem("ext3", (6, 16), 8 << 20, False, (4, 10), "served by ext4"),
        Filesystem("ext2", _NEVER, 0, False, (4, 10), "fs/ext2/file.c"),
        Filesystem("xfs", (5, 18), _MANY, False, (4, 10), "fs/xfs/xfs_file.c, xfs_icache.c"),
        Filesystem("btrfs", (6, 17), _MANY, True, (6, 1), "fs/btrfs/file.c, read in 6.1.192"),
        Filesystem("tmpfs", (6, 14), _MANY, False, _NEVER, "mm/shmem.c; huge= on the mount before"),
        Filesystem("erofs", (6, 2), _MANY, False, _NEVER, "fs/erofs/inode.c; recalled"),
        Filesystem("fuse", _NEVER, 0, False, (5, 10), "fs/fuse/file.c, read in 5.10.223"),
        Filesystem("overlay", _NEVER, 0, False, _NEVER, "mapped files are the layers'; no rule of its own"),
        Filesystem("nfs", (6, 3), _MANY, False, _NEVER, "fs/nfs/inode.c, read in 6.12.107"),
        Filesystem("squashfs", _NEVER, 0, False, _NEVER, ""),
        Filesystem("9p", _NEVER, 0, False, _NEVER, ""),
    )
}  # fmt: skip


def filesystem(name: str) -> Filesystem:
    """The entry of that name; one that promises nothing for a name that is not known. `fuseblk` is fuse."""
    known = FILESYSTEMS.get("fuse" if name.startswith("fuse") else name)
    return known if known is not None else Filesystem(name, source="unknown: nothing assumed")


def on_layer(layer: Filesystem) -> Filesystem:
    """An overlay, for a file that is on that layer: its folios are the layer's; where it is placed is the overlay's
    own affair, which has no get_unmapped_area (fs/overlayfs/file.c). As hidden as the layer is, if it is an overlay."""
    return replace(
        FILESYSTEMS["overlay"],
        large_folios_since=layer.large_folios_since,
        largest=layer.largest,
        experimental=layer.experimental,
        layer=layer.layer if layer.name == "overlay" else layer.name,
    )
