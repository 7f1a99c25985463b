"""What the machine does beside this process. In: `/proc/stat`. Out: busy cores."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_IDLE = {3, 4}  # fields of the line `cpu`: idle, waiting for a disk
_FIELDS = 8  # user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in the first two again


def busy_seconds(stat: str, ticks: int) -> float | None:
    """Seconds that all cores together have been busy since the machine started; None where the text does not say.

    ticks: in a second.
    """
    words = next((line.split() for line in stat.splitlines() if line.startswith("cpu ")), [])
    numbers = words[1 : _FIELDS + 1]
    if len(numbers) <= max(_IDLE) or not all(number.isdigit() for number in numbers):
        return None
    return sum(int(number) for index, number in enumerate(numbers) if index not in _IDLE) / ticks


def usable_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Look:
    """Seconds since some moment: by the clock, that all cores together were busy, and that this process computed.

    busy: None where the machine does not say.
    """

    clock: float
    busy: float | None
    own: float


def look() -> Look:
    """Now. own: of all threads of this process."""
    spent = os.times()
    try:
        busy = busy_seconds(Path("/proc/stat").read_text(), os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError):
        busy = None
    return Look(time.monotonic(), busy, spent.user + spent.system)


def others_cores(before: Look, after: Look) -> float | None:
    """How many cores everybody but this process kept busy between two looks; None where that cannot be told."""
    seconds = after.clock - before.clock
    if before.busy is None or after.busy is None or seconds <= 0:
        return None
    return max(0.0, after.busy - before.busy - (after.own - before.own)) / seconds
