"""The entries of a `.task`, which is a zip without compression: an app maps the flatbuffer where it lies.

In: an open file, which may come from a stranger. Out: names and places, or a UsageError of one line. Nothing is
unpacked, so that a small file cannot become a large one.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from harness.errors import UsageError
from harness.plain import brief

_MOST_ENTRIES = 256
_LOCAL_HEADER, _LOCAL_SIZE = b"PK\x03\x04", 30
_ENCRYPTED = 1


@dataclass(frozen=True)
class TaskEntry:
    """begin, end: bytes of the file that are its content."""

    name: str
    begin: int
    end: int


def task_entries(file: BinaryIO, path: Path, size: int) -> list[TaskEntry]:
    """In the order of the file. Raises UsageError for what is damaged, packed, linked, doubled or elsewhere."""
    try:
        # The archive reads its table of contents and nothing else.
        with zipfile.ZipFile(file) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        raise UsageError(f"{path} is damaged: it is not a whole zip ({error}); make the bundle again") from None
    if not 0 < len(listed) <= _MOST_ENTRIES:
        raise UsageError(f"{path} is a zip of {len(listed)} entries; a .task has 1 to {_MOST_ENTRIES}, make it again")
    found = sorted((_entry(file, path, size, one) for one in listed), key=lambda entry: entry.begin)
    for one, other in pairwise(found):
        if other.begin < one.end:
            raise UsageError(f"{path} is damaged: {brief(one.name)} and {brief(other.name)} share bytes; make it again")
    names = [entry.name for entry in found]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise UsageError(f"{path} has the entry {brief(doubled)} twice, and an app takes one of them; make it again")
    return found


def _entry(file: BinaryIO, path: Path, size: int, listed: zipfile.ZipInfo) -> TaskEntry:
    name = brief(listed.filename)
    if listed.is_dir() or "/" in listed.filename or "\\" in listed.filename:
        raise UsageError(f"{path} has an entry {name} in a folder, and a .task has none; make it again")
    if stat.S_ISLNK(listed.external_attr >> 16):
        raise UsageError(f"{path} has an entry {name} that is a link; make the bundle again with the file itself")
    if listed.compress_type != zipfile.ZIP_STORED or listed.compress_size != listed.file_size:
        raise UsageError(
            f"{path} has a compressed entry {name} ({listed.compress_size:,} bytes that become {listed.file_size:,}), "
            "which no app can map; make it again without compression"
        )
    if listed.flag_bits & _ENCRYPTED:
        raise UsageError(f"{path} has an encrypted entry {name}, which no app can read; make it again")
    file.seek(listed.header_offset)
    head = file.read(_LOCAL_SIZE)
    if len(head) < _LOCAL_SIZE or not head.startswith(_LOCAL_HEADER):
        raise UsageError(f"{path} is damaged: the entry {name} does not begin where it should; make the bundle again")
    name_size, extra_size = struct.unpack_from("<HH", head, 26)
    begin = listed.header_offset + _LOCAL_SIZE + name_size + extra_size
    if begin + listed.file_size > size:
        raise UsageError(f"{path} is damaged: the entry {name} ends after the file does; copy it again")
    return TaskEntry(listed.filename, begin, begin + listed.file_size)
