"""Tables of a flatbuffer, read without generated code and with every place checked.

In: the bytes of a header, which may come from a stranger. Out: numbers, texts and tables by field. Raises
`TableError` for what leads out of the bytes. https://flatbuffers.dev/internals
"""

from __future__ import annotations

import struct
from dataclasses import dataclass


class TableError(ValueError):
    """Bytes that are not such a table; says why."""


@dataclass(frozen=True)
class Table:
    """A table at a place in `data`. Fields are numbered from 0, in the order of their schema."""

    data: bytes
    at: int

    @classmethod
    def root(cls, data: bytes) -> Table:
        """The table that a flatbuffer begins with. Raises TableError."""
        return cls(data, _number(data, 0, "<I"))

    def place(self, field: int) -> int:
        """Where a field's value stands; 0 where the table has none. Raises TableError."""
        vtable = self.at - _number(self.data, self.at, "<i")
        size = _number(self.data, vtable, "<H")
        entry = 4 + 2 * field
        offset = _number(self.data, vtable + entry, "<H") if entry + 2 <= size else 0
        return self.at + offset if offset else 0

    def number(self, field: int, form: str, default: int = 0) -> int:
        """form: as `struct` has it, "<Q". Raises TableError."""
        place = self.place(field)
        return int(_number(self.data, place, form)) if place else default

    def value(self, field: int, form: str) -> float | int | bool:
        """As `number`, of any form. Raises TableError."""
        place = self.place(field)
        return _unpacked(self.data, place, form) if place else 0

    def table(self, field: int) -> Table | None:
        """A table within this one. Raises TableError."""
        place = self.place(field)
        return Table(self.data, place + _number(self.data, place, "<I")) if place else None

    def text(self, field: int) -> str:
        """Empty where there is none. Raises TableError."""
        place = self.place(field)
        if not place:
            return ""
        start = place + _number(self.data, place, "<I")
        size = _number(self.data, start, "<I")
        held = self.data[start + 4 : start + 4 + size]
        if len(held) < size:
            raise TableError(f"a text of {size:,} bytes leads out of it")
        try:
            return held.decode()
        except UnicodeDecodeError:
            raise TableError("it has a text that is not UTF-8") from None

    def tables(self, field: int, most: int) -> list[Table]:
        """A list of tables. Raises TableError, for a list of more than `most` too."""
        place = self.place(field)
        if not place:
            return []
        start = place + _number(self.data, place, "<I")
        count = _number(self.data, start, "<I")
        if count > most:
            raise TableError(f"it has a list of {count:,} entries, and such a list has {most:,} at most")
        places = [start + 4 + 4 * index for index in range(count)]
        return [Table(self.data, at + _number(self.data, at, "<I")) for at in places]


def _number(data: bytes, at: int, form: str) -> int:
    return int(_unpacked(data, at, form))


def _unpacked(data: bytes, at: int, form: str) -> float | int | bool:
    if at < 0 or at + struct.calcsize(form) > len(data):
        raise TableError(f"it leads to byte {at:,} of {len(data):,}")
    found: float | int | bool = struct.unpack_from(form, data, at)[0]
    return found
