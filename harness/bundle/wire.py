"""Protocol buffers as they are stored: fields by number, without generated code.

In: bytes, which may come from a stranger. Out: numbers and bytes by field, and the other way round. Raises
`WireError` for what is not a message. https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_FIELDS = 200_000  # entries of one message; a real one has a few dozen
_LONGEST_VARINT = 10  # bytes


class WireError(ValueError):
    """Bytes that are not a message; says why."""


Value = int | bytes
Fields = Mapping[int, list[Value]]


def read_message(data: bytes) -> dict[int, list[Value]]:
    """Field -> its values in their order: numbers of varints, the bytes of all else. Raises WireError."""
    found: dict[int, list[Value]] = {}
    at, count = 0, 0
    while at < len(data):
        key, at = _varint(data, at)
        field, kind = key >> 3, key & 7
        count += 1
        if not field or count > _MOST_FIELDS:
            raise WireError("it has a field 0" if not field else f"it has more than {_MOST_FIELDS:,} entries")
        if kind == _VARINT:
            value, at = _varint(data, at)
            found.setdefault(field, []).append(value)
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise WireError(f"field {field} is of kind {kind}, which there is not")
        if size > len(data) - at:
            raise WireError(f"field {field} takes {size:,} bytes and {len(data) - at:,} are left")
        found.setdefault(field, []).append(data[at : at + size])
        at += size
    return found


def text(fields: Fields, number: int) -> str:
    """The last value of a field of text; empty where there is none. Raises WireError."""
    held = fields.get(number, [b""])[-1]
    if not isinstance(held, bytes):
        raise WireError(f"field {number} is a number and should be a text")
    return decoded(held)


def texts(fields: Fields, number: int) -> list[str]:
    """All values of a field of text. Raises WireError."""
    return [text({number: [one]}, number) for one in fields.get(number, [])]


def number(fields: Fields, field: int) -> int:
    """The last value of a field of an int32; 0 where there is none. Raises WireError."""
    held = fields.get(field, [0])[-1]
    if not isinstance(held, int):
        raise WireError(f"field {field} is not a whole number and should be one")
    return signed(held)


def numbers(fields: Fields, field: int) -> list[int]:
    """All values of a repeated int32, packed or not. Raises WireError."""
    found: list[int] = []
    for held in fields.get(field, []):
        if isinstance(held, int):
            found.append(signed(held))
            continue
        at = 0
        while at < len(held):
            value, at = _varint(held, at)
            found.append(signed(value))
    return found


def messages(fields: Fields, field: int) -> list[dict[int, list[Value]]]:
    """All values of a field of messages. Raises WireError."""
    found = []
    for held in fields.get(field, []):
        if not isinstance(held, bytes):
            raise WireError(f"field {field} is a number and should be a message")
        found.append(read_message(held))
    return found


def signed(value: int) -> int:
    """A varint as int64 has it."""
    return value - (1 << 64) if value >= 1 << 63 else value


def decoded(held: bytes) -> str:
    """Text of a message, which is UTF-8. Raises WireError."""
    try:
        return held.decode()
    except UnicodeDecodeError:
        raise WireError("it has a text that is not UTF-8") from None


def message(fields: Iterable[tuple[int, int | str | bytes]]) -> bytes:
    """The other way round: fields in their order; numbers as varints, text and bytes with their length."""
    out = bytearray()
    for field, value in fields:
        if isinstance(value, int):
            out += _as_varint(field << 3 | _VARINT) + _as_varint(value % (1 << 64))
            continue
        held = value.encode() if isinstance(value, str) else value
        out += _as_varint(field << 3 | _BYTES) + _as_varint(len(held)) + held
    return bytes(out)


def packed(values: Iterable[int]) -> bytes:
    """A repeated int32 as proto3 stores it, to be the value of a field."""
    return b"".join(_as_varint(value % (1 << 64)) for value in values)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(_LONGEST_VARINT):
        if at + place >= len(data):
            raise WireError("it ends within a number")
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value & ((1 << 64) - 1), at + place + 1
    raise WireError("it has a number of more than 64 bits")


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
