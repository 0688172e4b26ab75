"""Find the control groups of Linux that limit this process."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUP = Path("/proc/self/cgroup")
MOUNTS = Path("/proc/self/mountinfo")


def own_folders(controller: str) -> list[Path]:
    """Return the folders of the control groups by which `controller` limits this process.

    The group's own folder comes first. Empty if the system has no control groups.
    """
    try:
        return group_folders(CGROUP.read_text(), MOUNTS.read_text(), controller)
    except OSError:  # not Linux, or /proc is hidden
        return []


def group_folders(cgroup: str, mountinfo: str, controller: str) -> list[Path]:
    """Return the folders of the control groups by which `controller` limits this process.

    `cgroup` and `mountinfo` are the contents of the files of `/proc/self`. The group's own folder
    comes first, then those of its parents up to the mount point.

    Source: cgroups(7), proc_pid_mountinfo(5).
    """
    groups = {}
    for line in cgroup.splitlines():
        _, controllers, group = line.split(":", 2)
        for name in controllers.split(","):
            groups[name] = group
    folders: list[Path] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, mount_point = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            name = ""
        elif kind == "cgroup" and controller in options.split(","):
            name = controller
        else:
            continue
        if name in groups:
            own_group = PurePosixPath(groups[name])
            folders += _folders(own_group, PurePosixPath(root), Path(mount_point))
    return folders


def _folders(group: PurePosixPath, root: PurePosixPath, mount_point: Path) -> Iterator[Path]:
    """Yield the folder of a group and of its parents; `root` is the group at the mount point."""
    # In a container the mount point may be the group itself, whose path is that of the host.
    inside = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
    yield mount_point / inside
    for parent in inside.parents:
        yield mount_point / parent


def words(path: Path) -> list[str]:
    """Return the words of a file, none if it cannot be read."""
    try:
        return path.read_text().split()
    except OSError:
        return []
