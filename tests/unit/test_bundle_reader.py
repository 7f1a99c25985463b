"""Bundles are read whole or refused in one line, whoever made them."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import METADATA, PIECES, TASK_METADATA, TOKENIZER, litertlm, parts_of, task, with_bytes, with_place
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.bundle import wire
from harness.bundle.metadata import LlmMetadata, Token, read_litertlm, read_task
from harness.bundle.reader import read_bundle, tokenizer_json
from harness.bundle.sections import SectionKind
from harness.bundle.tokenizers import described
from harness.bundle.writer import Part
from harness.errors import UsageError
from harness.inspection.bundle import contents_of_bundle

_BLOCK = 16 * 1024
_HF = 6


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    found = read_bundle(litertlm(tmp_path))
    assert [section.kind for section in found.sections] == [
        SectionKind.METADATA,
        SectionKind.HF_TOKENIZER,
        SectionKind.FLATBUFFER,
    ]
    assert found.metadata == METADATA
    assert tokenizer_json(found, found.tokenizers[0]) == TOKENIZER
    assert found.read(found.models[0]) == (tmp_path / "model.tflite").read_bytes()
    assert all(section.begin % _BLOCK == 0 for section in found.sections)


def test_what_was_written_as_a_task_is_read_again(tmp_path: Path) -> None:
    found = read_bundle(task(tmp_path))
    assert [section.name for section in found.sections] == ["TF_LITE_PREFILL_DECODE", "TOKENIZER_MODEL", "METADATA"]
    assert found.metadata == TASK_METADATA
    assert found.read(found.models[0]) == (tmp_path / "model.tflite").read_bytes()
    assert described(found, found.tokenizers[0]) == "SentencePiece, 2 pieces"


@pytest.mark.parametrize("write", [litertlm, task])
def test_the_same_parts_give_the_same_bytes(write: Callable[[Path], Path], tmp_path: Path) -> None:
    first = write(tmp_path).read_bytes()
    assert write(tmp_path).read_bytes() == first


def test_other_parts_give_another_id(tmp_path: Path) -> None:
    one = read_bundle(litertlm(tmp_path)).system["uuid"]
    other = read_bundle(litertlm(tmp_path, parts_of(tmp_path)[1:])).system["uuid"]
    assert one != other


def cut(file: Path, size: int) -> Path:
    file.write_bytes(file.read_bytes()[:size])
    return file


_DAMAGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (lambda folder: cut(litertlm(folder), 0), "is not a bundle"),
    "cut in the header": (lambda folder: cut(litertlm(folder), 20), "ends after 20 bytes, within its header"),
    "cut in the tables": (lambda folder: cut(litertlm(folder), 100), "its header ends at byte"),
    "cut in a section": (lambda folder: cut(litertlm(folder), 3 * _BLOCK + 10), "the file is cut short"),
    "another version": (lambda folder: with_bytes(litertlm(folder), 8, struct.pack("<I", 2)), "is of version 2.7.0"),
    "a header without end": (
        lambda folder: with_bytes(litertlm(folder), 24, b"\xff" * 8),
        "its header ends at byte 18,446,744,073,709,551,615",
    ),
    "a header that is not a table": (lambda folder: with_bytes(litertlm(folder), 32, b"\xff" * 4), "is not a table"),
    "a section past the end": (lambda folder: with_place(litertlm(folder), 2, end=1 << 40), "1,099,511,627,776"),
    "a section that ends before it begins": (
        lambda folder: with_place(litertlm(folder), 1, end=2 * _BLOCK - 1),
        "begins at byte 32,768 and ends at 32,767",
    ),
    "a section in the header": (lambda folder: with_place(litertlm(folder), 0, begin=40), "within the header"),
    "sections that share bytes": (
        lambda folder: with_place(litertlm(folder), 1, end=3 * _BLOCK + 1),
        "sections 1 and 2 share bytes",
    ),
    "no section": (lambda folder: litertlm(folder, []), "lists no section"),
    "metadata that is none": (
        lambda folder: litertlm(folder, [Part(5, b"\x0a\xff\x01"), *parts_of(folder)[1:]]),
        "its metadata is not a message",
    ),
    "a task cut short": (lambda folder: cut(task(folder), 5000), "is not a whole zip"),
}


@pytest.mark.parametrize("kind", _DAMAGED)
def test_a_damaged_bundle_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    make, said = _DAMAGED[kind]
    with pytest.raises(UsageError) as caught:
        read_bundle(make(tmp_path))
    assert said in str(caught.value)
    assert ";" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (lambda: (1 << 60).to_bytes(8, "little") + zlib.compress(b"a"), "is to unpack to"),
        (lambda: (5).to_bytes(8, "little") + zlib.compress(bytes(1 << 24)), "does not unpack to as many"),
        (lambda: (5).to_bytes(8, "little") + zlib.compress(b"abc"), "does not unpack to as many"),
        (lambda: (5).to_bytes(8, "little") + b"no zlib", "cannot be unpacked"),
        (lambda: b"{", "is to unpack to"),
    ],
)
def test_a_tokenizer_is_unpacked_to_the_size_that_it_names_and_no_further(
    packed: Callable[[], bytes], said: str, tmp_path: Path
) -> None:
    metadata, _, model = parts_of(tmp_path)
    found = read_bundle(litertlm(tmp_path, [metadata, Part(_HF, packed()), model]))
    with pytest.raises(UsageError, match=said):
        tokenizer_json(found, found.tokenizers[0])


@pytest.mark.parametrize(
    ("held", "said"), [(b"[]", "has no 'model'"), (b"{", "is no JSON"), (b"[" * 10**5, "is no JSON")]
)
def test_a_tokenizer_that_is_none_is_refused(held: bytes, said: str, tmp_path: Path) -> None:
    metadata, _, model = parts_of(tmp_path)
    packed = len(held).to_bytes(8, "little") + zlib.compress(held)
    with pytest.raises(UsageError, match=said):
        contents_of_bundle(read_bundle(litertlm(tmp_path, [metadata, Part(_HF, packed), model])))


def zipped(folder: Path, change: Callable[[zipfile.ZipInfo], None], times: int = 1) -> Path:
    target = folder / "made.task"
    with zipfile.ZipFile(target, "w") as archive:
        for _ in range(times):
            entry = zipfile.ZipInfo("METADATA")
            change(entry)
            archive.writestr(entry, bytes(10_000))
    return target


def as_link(entry: zipfile.ZipInfo) -> None:
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entry: setattr(entry, "compress_type", zipfile.ZIP_DEFLATED), "has a compressed entry"),
        (as_link, "that is a link"),
        (lambda entry: setattr(entry, "filename", "../METADATA"), "in a folder"),
    ],
)
def test_a_task_that_no_app_can_map_is_refused(
    change: Callable[[zipfile.ZipInfo], None], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        read_bundle(zipped(tmp_path, change))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_task_with_an_entry_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'METADATA' twice"):
        read_bundle(zipped(tmp_path, lambda entry: None, times=2))


def test_a_task_whose_entries_share_bytes_is_refused(tmp_path: Path) -> None:
    held = bytearray(task(tmp_path).read_bytes())
    directory = held.index(b"PK\x01\x02", held.index(b"PK\x01\x02") + 4)  # of the second entry
    struct.pack_into("<I", held, directory + 42, 0)  # where its local header stands
    (tmp_path / "model.task").write_bytes(held)
    with pytest.raises(UsageError, match="share bytes"):
        read_bundle(tmp_path / "model.task")


def test_a_json_tokenizer_in_a_task_is_told(tmp_path: Path) -> None:
    found = read_bundle(task(tmp_path, tokenizer=TOKENIZER))
    assert "Hugging Face where a SentencePiece model should be" in described(found, found.tokenizers[0])


def test_what_is_neither_pieces_nor_json_is_refused(tmp_path: Path) -> None:
    found = read_bundle(task(tmp_path, tokenizer=b"\xff\xff"))
    with pytest.raises(UsageError, match="no SentencePiece model"):
        described(found, found.tokenizers[0])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=4))
def test_whatever_a_header_says_it_is_read_or_refused(places: list[tuple[int, int]], tmp_path: Path) -> None:
    held = bytearray(litertlm(tmp_path).read_bytes())
    end = int.from_bytes(held[24:32], "little")
    for place, byte in places:
        held[8 + place % (end - 8)] = byte
    file = tmp_path / "changed.litertlm"
    file.write_bytes(held)
    try:
        contents_of_bundle(read_bundle(file))
    except UsageError:
        return


@given(st.binary(max_size=200))
def test_whatever_bytes_a_message_has_it_is_read_or_refused(held: bytes) -> None:
    for read in (read_litertlm, read_task):
        try:
            read(held)
        except wire.WireError:
            continue


_TOKENS = st.one_of(
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3).map(lambda ids: Token(tuple(ids))),
    st.text(min_size=1, max_size=5).map(lambda text: Token(text=text)),
)


@given(
    start=st.one_of(st.just(Token()), _TOKENS),
    stop=st.lists(_TOKENS, max_size=4).map(tuple),
    most=st.integers(0, 2**31 - 1),
    template=st.text(max_size=30),
)
def test_metadata_is_what_litert_lm_reads(start: Token, stop: tuple[Token, ...], most: int, template: str) -> None:
    from litert_lm_builder.runtime.proto import llm_metadata_pb2

    said = LlmMetadata(start, stop, most, template, {"user": ("a", "b")}, "qwen3")
    held = said.as_litertlm()
    assert read_litertlm(held) == said
    theirs = llm_metadata_pb2.LlmMetadata()
    theirs.ParseFromString(held)
    assert (theirs.max_num_tokens, theirs.jinja_prompt_template) == (most, template)
    assert [tuple(one.token_ids.ids) or one.token_str for one in theirs.stop_tokens] == [
        one.ids or one.text for one in stop
    ]
    assert theirs.llm_model_type.WhichOneof("model_type") == "qwen3"
    assert read_litertlm(theirs.SerializeToString()) == said


def test_a_task_has_what_stands_around_a_message_behind_the_beginning_of_a_session() -> None:
    """As the engine reads it: with the fields of a `.litertlm` it puts the end of a message before it."""
    (templates,) = wire.messages(wire.read_message(TASK_METADATA.as_task()), 17)
    (user,) = wire.messages(templates, 1)
    assert user == {2: [b"<u>"], 3: [b"</u>"]}


def test_pieces_of_a_tokenizer_are_counted() -> None:
    assert len(wire.read_message(PIECES)[1]) == 2
