"""What is in a flatbuffer, as `edge-parity inspect` says it.

In: nothing. Out: the classes. Sizes are bytes.
"""

from __future__ import annotations

from pydantic import Field

from harness.record.part import Part


class NamedTensor(Part):
    """An input or an output of a signature. shape: -1 where the size is left open."""

    name: str
    dtype: str  # of the schema, "FLOAT32"
    shape: list[int]


class Delegated(Part):
    """What a runtime of this machine does with a signature when it loads the file.

    operators: kind -> how many of them the delegate takes; empty where there is no delegate. partitions: pieces that
    the delegate runs, each without a way out. error: why the runtime does not load it, on one line, or empty.
    """

    runtime: str  # "tflite-xnnpack"
    operators: dict[str, int] = Field(default_factory=dict)
    partitions: int = 0
    error: str = ""


class SignatureContents(Part):
    """operators: kind -> how many there are; a composite counts once, under its name. inside: those within composites
    and other subgraphs that the signature calls."""

    name: str  # empty for a file without signatures
    inputs: list[NamedTensor]
    outputs: list[NamedTensor]
    operators: dict[str, int]
    inside: dict[str, int] = Field(default_factory=dict)
    delegated: list[Delegated] = Field(default_factory=list)


class OperatorForm(Part):
    """Operators that read and give the same types. reads: `FLOAT32`, constants with their grid, `const INT8
    channelwise`. count: of all signatures and what they call."""

    kind: str
    reads: list[str]
    gives: list[str]
    count: int


class SizeOf(Part):
    """Constants of one purpose and type. what: `weights`, `embeddings`, `other constants`."""

    what: str
    dtype: str
    tensors: int
    size: int


class MetadataEntry(Part):
    """text: where it is a short text, else empty."""

    name: str
    size: int
    text: str = ""


class FileContents(Part):
    """What is in a flatbuffer.

    rest: bytes of no constant: tables, metadata, padding. outside: bytes of constants that stand outside the
    flatbuffer's tables (`Buffer.offset`). shared: bytes that more than one signature reads. doubled: bytes of constants
    that the file holds once more, byte for byte. custom: operators that are none of TFLite's own, how many of each;
    flex: those of them that need TensorFlow's own operators.
    """

    file: str
    size: int
    version: int
    description: str
    signatures: list[SignatureContents]
    forms: list[OperatorForm]
    sizes: list[SizeOf]
    rest: int
    outside: int
    shared: int
    doubled: int
    custom: dict[str, int] = Field(default_factory=dict)
    flex: list[str] = Field(default_factory=list)
    metadata: list[MetadataEntry] = Field(default_factory=list)
    runtime: str = ""  # "ai-edge-litert 2.3.0", of `delegated`; empty where it was not asked
