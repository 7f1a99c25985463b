"""Which version of a file is there, told without reading it.

In: a path. Out: numbers that differ once the file was written again, whatever its size and its date say.
"""

from __future__ import annotations

import os
import time

# A file system's clock ticks every few milliseconds, some only every second: two edits within one tick look like one.
SETTLING = 2.0  # seconds


def stamp_of(facts: os.stat_result) -> list[int]:
    """Device, inode, size, and the times in ns of the last change of content and of anything.

    Nobody can set the last one: an edit that keeps size and date (`touch -r`, `cp -p`, `rsync -t`) still moves it, and
    a file moved into another's place has another inode.
    """
    return [facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def settled(facts: os.stat_result) -> bool:
    """Whether the next edit must give another stamp. False for a file that was written just now."""
    return abs(time.time_ns() - facts.st_ctime_ns) > SETTLING * 1e9
