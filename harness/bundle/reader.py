"""Read a bundle: `.litertlm` or `.task`, told by its first bytes.

In: a path, of a file that may come from a stranger. Out: a `Bundle`, or a UsageError of one line. Nothing in it is run,
unpacked or unpickled, and nothing is read but what lies in the file where its header says so.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NoReturn

from harness.bundle.metadata import LlmMetadata, read_litertlm, read_task
from harness.bundle.sections import Bundle, Form, Section, SectionKind
from harness.bundle.tables import Table, TableError
from harness.bundle.task_entries import task_entries
from harness.bundle.wire import WireError
from harness.errors import UsageError
from harness.system.reading import TEXT, check_file

MAGIC = b"LITERTLM"
ZIP_MAGIC = b"PK\x03\x04"
MAJOR = 1  # of the version of the format that is read here
_HEADER_BEGIN, _HEADER_END_AT = 32, 24
_LONGEST_HEADER = 16_000_000
_MOST_SECTIONS, _MOST_ITEMS = 256, 1024
_LONGEST_METADATA = 16_000_000
_PIECE = 1 << 20

KINDS = {
    1: SectionKind.BINARY,
    3: SectionKind.FLATBUFFER,
    4: SectionKind.SENTENCEPIECE,
    5: SectionKind.METADATA,
    6: SectionKind.HF_TOKENIZER,
    7: SectionKind.WEIGHTS,
    8: SectionKind.OTHER_METADATA,
    9: SectionKind.OTHER_METADATA,
    10: SectionKind.OTHER_METADATA,
    11: SectionKind.OTHER_METADATA,
}
# Of the entries of a `.task`, as MediaPipe's tools name them.
TASK_NAMES = {
    "TF_LITE_PREFILL_DECODE": SectionKind.FLATBUFFER,
    "TOKENIZER_MODEL": SectionKind.SENTENCEPIECE,
    "METADATA": SectionKind.METADATA,
}
_TASK_MODEL = "TF_LITE_"  # what the names of its other flatbuffers begin with
_TEXT_VALUE, _BOOL_VALUE = 9, 8
_FORMS = {1: "<B", 2: "<b", 3: "<H", 4: "<h", 5: "<I", 6: "<i", 7: "<f", 8: "<?", 10: "<Q", 11: "<q", 12: "<d"}


def form_of(path: Path) -> Form | None:
    """Which kind of bundle a file is, by its first bytes; None for others. Raises UsageError for what is not a file."""
    check_file(path, "give the path of a file")
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(MAGIC):
        return Form.LITERTLM
    return Form.TASK if start.startswith(ZIP_MAGIC) else None


def read_bundle(path: Path) -> Bundle:
    """Everything but the content of flatbuffer and tokenizer. Raises UsageError, one line, for what is not a bundle."""
    form = form_of(path)
    if form is None:
        raise UsageError(f"{path} is not a bundle (neither LITERTLM nor a zip); give a .litertlm or .task file")
    size = path.stat().st_size
    with path.open("rb") as file:
        found = _litertlm(file, path, size) if form is Form.LITERTLM else _task(file, path, size)
        hashed = tuple(replace(one, sha256=_sha256(file, one)) for one in found.sections)
    return replace(found, sections=hashed, metadata=_metadata(replace(found, sections=hashed)))


def tokenizer_json(bundle: Bundle, section: Section) -> bytes:
    """The `tokenizer.json` of a section, unpacked to the size that it names. Raises UsageError."""
    held = bundle.read(section)
    declared = int.from_bytes(held[:8], "little") if len(held) >= 8 else -1
    if not 0 <= declared <= TEXT:
        _damaged(bundle.path, f"its tokenizer is to unpack to {declared:,} bytes, and one has {TEXT:,} at most")
    unpacking = zlib.decompressobj()
    try:
        # One byte more than it names: what is left over then is more than it says.
        found = unpacking.decompress(held[8:], declared + 1)
    except zlib.error as error:
        _damaged(bundle.path, f"its tokenizer cannot be unpacked ({error})")
    if len(found) != declared or not unpacking.eof:
        _damaged(bundle.path, f"its tokenizer names {declared:,} bytes and does not unpack to as many")
    return found


def extract(bundle: Bundle, section: Section, target: Path) -> None:
    """Write the bytes of a section to a file of their own."""
    with bundle.path.open("rb") as file, target.open("wb") as out:
        for piece in _pieces(file, section):
            out.write(piece)


def _damaged(path: Path, why: str) -> NoReturn:
    raise UsageError(f"{path} is damaged: {why}; make the bundle again, or copy it again")


def _litertlm(file: BinaryIO, path: Path, size: int) -> Bundle:
    head = file.read(_HEADER_BEGIN)
    if len(head) < _HEADER_BEGIN:
        _damaged(path, f"it ends after {size} bytes, within its header")
    major, minor, patch = struct.unpack_from("<III", head, 8)
    if major != MAJOR:
        raise UsageError(
            f"{path} is of version {major}.{minor}.{patch} of the format, and versions {MAJOR}.x are read; make it "
            "with litert-lm-builder 0.18"
        )
    (end,) = struct.unpack_from("<Q", head, _HEADER_END_AT)
    if not _HEADER_BEGIN < end <= min(size, _LONGEST_HEADER):
        _damaged(path, f"its header ends at byte {end:,} of {size:,}")
    try:
        root = Table.root(file.read(end - _HEADER_BEGIN))
        about, listed = root.table(0), root.table(1)
        system = _items(about.tables(0, _MOST_ITEMS)) if about else {}
        sections = [
            _section(number, one) for number, one in enumerate(listed.tables(0, _MOST_SECTIONS) if listed else [])
        ]
    except TableError as error:
        _damaged(path, f"its header is not a table ({error})")
    _check_places(path, sections, end, size)
    used = end + sum(section.size for section in sections)
    return Bundle(path, Form.LITERTLM, f"{major}.{minor}.{patch}", size, tuple(sections), size - used, system)


def _section(number: int, table: Table) -> Section:
    code = table.number(3, "<B")
    return Section(
        number,
        KINDS.get(code, SectionKind.UNKNOWN),
        code,
        table.number(1, "<Q"),
        table.number(2, "<Q"),
        "",
        _items(table.tables(0, _MOST_ITEMS)),
    )


def _items(pairs: Iterable[Table]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        kind, value = pair.number(1, "<B"), pair.table(2)
        if value is None:
            said = ""
        elif kind == _TEXT_VALUE:
            said = value.text(0)
        elif kind in _FORMS:
            said = str(value.value(0, _FORMS[kind]))
        else:
            said = f"a value of type {kind}"
        found[pair.text(0)] = said
    return found


def _check_places(path: Path, sections: Sequence[Section], begin: int, size: int) -> None:
    """Each section lies in the file, behind the header, and no two share a byte. Raises UsageError."""
    if not sections:
        _damaged(path, "it lists no section")
    for section in sections:
        what = f"section {section.number} ({section.kind})"
        if section.begin >= section.end:
            _damaged(path, f"{what} begins at byte {section.begin:,} and ends at {section.end:,}")
        if section.begin < begin:
            _damaged(path, f"{what} begins at byte {section.begin:,}, within the header")
        if section.end > size:
            _damaged(
                path, f"{what} ends at byte {section.end:,} of {size:,}: the file is cut short, or its header lies"
            )
    ordered = sorted(sections, key=lambda section: section.begin)
    for one, other in pairwise(ordered):
        if other.begin < one.end:
            _damaged(path, f"sections {one.number} and {other.number} share bytes")


def _task(file: BinaryIO, path: Path, size: int) -> Bundle:
    entries = task_entries(file, path, size)
    sections = [
        Section(number, _task_kind(entry.name), 0, entry.begin, entry.end, "", name=entry.name)
        for number, entry in enumerate(entries)
    ]
    used = sum(section.size for section in sections)
    return Bundle(path, Form.TASK, "", size, tuple(sections), size - used)


def _task_kind(name: str) -> SectionKind:
    flatbuffer = SectionKind.FLATBUFFER if name.startswith(_TASK_MODEL) else SectionKind.UNKNOWN
    return TASK_NAMES.get(name, flatbuffer)


def _metadata(bundle: Bundle) -> LlmMetadata | None:
    """Of the first such section; that there are several is for whoever judges the bundle."""
    sections = bundle.of_kind(SectionKind.METADATA)
    if not sections:
        return None
    if sections[0].size > _LONGEST_METADATA:
        _damaged(
            bundle.path,
            f"its metadata takes {sections[0].size:,} bytes, and such a section {_LONGEST_METADATA:,} at most",
        )
    read = read_litertlm if bundle.form is Form.LITERTLM else read_task
    try:
        return read(bundle.read(sections[0]))
    except WireError as error:
        _damaged(bundle.path, f"its metadata is not a message of protocol buffers ({error})")


def _sha256(file: BinaryIO, section: Section) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(file, section):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(file: BinaryIO, section: Section) -> Iterable[bytes]:
    file.seek(section.begin)
    left = section.size
    while left and (piece := file.read(min(left, _PIECE))):
        left -= len(piece)
        yield piece
