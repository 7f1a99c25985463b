"""How much memory this process may take: what the machine has, or the control group it runs in, whichever is less.

In: `/proc` and `/sys`. Out: bytes. A container's limit is a control group's; the machine's own figures do not know it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60  # version 1 writes a number near 2^63 for no limit
# Names of a group's files: its limit, what it takes, and the line of `memory.stat` with what can be given back at once.
_VERSIONS = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


@dataclass(frozen=True)
class MachineMemory:
    """Bytes. total: that there are, or that may be taken; free: of them now."""

    total: int
    free: int


def memory(root: Path = Path("/")) -> MachineMemory:
    """The machine's memory or what the tightest control group above this process leaves of it.

    root: where `proc` and `sys` are.
    """
    import psutil

    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    for limit, left in group_limits(root):
        total, free = min(total, limit), min(free, left)
    return MachineMemory(total, max(free, 0))


def group_limits(root: Path = Path("/")) -> list[tuple[int, int]]:
    """(limit, what is left of it) in bytes of each control group above this process that has a limit."""
    found = []
    for folder, version in _groups(root):
        names = _VERSIONS[version]
        limit, used = (_number(folder / name) for name in names[:2])
        if limit is not None and limit < _UNLIMITED:
            found.append((limit, limit - max((used or 0) - _reclaimable(folder, names[2]), 0)))
    return found


def _groups(root: Path) -> Iterator[tuple[Path, int]]:
    """The folders of this process's group and of all above it, with the version of their files."""
    mounts = {1: root / "sys/fs/cgroup/memory", 2: root / "sys/fs/cgroup"}
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if number == "0" and not controllers else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        # In a container the path may be that of the host, while the mount begins at the container's own group.
        inside = Path(path.lstrip("/"))
        for part in (inside, *inside.parents):
            yield mounts[version] / part, version


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _reclaimable(folder: Path, name: str) -> int:
    """Files that were read and can be forgotten count as used, but are not in the way."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
