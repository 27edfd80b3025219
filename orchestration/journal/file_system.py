"""Which file system a folder is on, and so whether processes of other hosts may have its files open too."""

from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# Of one host's kernel. Any other is taken for one that hosts share: nfs, lustre, ceph, gpfs, cifs, 9p, all of FUSE.
LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "ramfs", "overlay"})


def is_local(path: Path) -> bool:
    """Whether `path`, which exists, is on a file system that only this host has mounted."""
    return file_system_of(path, MOUNTS.read_text()) in LOCAL


def file_system_of(path: Path, mounts: str) -> str:
    """The type of file system, such as "ext4", by the lines of proc_pid_mountinfo(5)."""
    path = path.resolve()
    found = (Path("/"), "")
    for line in mounts.splitlines():
        fields, _, described = line.partition(" - ")
        mounted = Path(fields.split()[4].encode().decode("unicode_escape"))  # blanks are written \040
        if path.is_relative_to(mounted) and mounted.is_relative_to(found[0]):  # the innermost; of equal ones the last
            found = mounted, described.split()[0]
    return found[1]
