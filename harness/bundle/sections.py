"""What a bundle holds: sections of a file, each with its kind and its place.

In: nothing. Out: `Section`, `Bundle`, and the names of the kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from harness.bundle.metadata import LlmMetadata


class Form(StrEnum):
    """How the file is made up."""

    LITERTLM = ".litertlm"  # a header with offsets, then the sections
    TASK = ".task"  # an uncompressed zip


class SectionKind(StrEnum):
    """What a section holds."""

    FLATBUFFER = "flatbuffer"
    HF_TOKENIZER = "Hugging Face tokenizer"
    SENTENCEPIECE = "SentencePiece tokenizer"
    METADATA = "metadata"
    WEIGHTS = "weights outside a flatbuffer"
    BINARY = "other data"
    OTHER_METADATA = "other metadata"
    UNKNOWN = "unknown"


TOKENIZERS = (SectionKind.HF_TOKENIZER, SectionKind.SENTENCEPIECE)
# The value of `model_type` of the flatbuffer that generates text; older files have none where it is the only one.
GENERATES = "tf_lite_prefill_decode"
MODEL_TYPE = "model_type"


@dataclass(frozen=True)
class Section:
    """kind_code: as the file has it. begin, end: bytes of the file. items: what the header says of it.

    name: of the entry of a `.task`; empty elsewhere. sha256: of its bytes.
    """

    number: int
    kind: SectionKind
    kind_code: int
    begin: int
    end: int
    sha256: str
    items: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    @property
    def size(self) -> int:
        return self.end - self.begin

    @property
    def model_type(self) -> str:
        """Which of several models it is, or belongs to; empty where the file does not say."""
        return self.items.get(MODEL_TYPE, "")


@dataclass(frozen=True)
class Bundle:
    """system: what the header says of the whole file. metadata: None where there is no such section.

    rest: bytes that belong to no section and to no header.
    """

    path: Path
    form: Form
    version: str
    size: int
    sections: tuple[Section, ...]
    rest: int
    system: Mapping[str, str] = field(default_factory=dict)
    metadata: LlmMetadata | None = None

    def of_kind(self, *kinds: SectionKind) -> list[Section]:
        """In the order of the file."""
        return [section for section in self.sections if section.kind in kinds]

    @property
    def models(self) -> list[Section]:
        """The flatbuffers that generate text: one, unless the bundle is wrong."""
        return [section for section in self.of_kind(SectionKind.FLATBUFFER) if section.model_type in ("", GENERATES)]

    @property
    def tokenizers(self) -> list[Section]:
        """Those of the model that generates text: one, unless the bundle is wrong."""
        return [section for section in self.of_kind(*TOKENIZERS) if section.model_type in ("", GENERATES)]

    def read(self, section: Section) -> bytes:
        """The bytes of a section."""
        with self.path.open("rb") as file:
            file.seek(section.begin)
            return file.read(section.size)
