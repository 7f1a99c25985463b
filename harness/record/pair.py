"""What a comparison of two files came to, as `edge-parity compare` says it. In: nothing. Out: the classes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.record.part import Part, Verdict

Floor = Literal["float64", "oracle", "rounding", "price"]


class PairOperator(Part):
    """An operator of one of the two files."""

    kind: str
    index: int
    tensor: str
    """What it gives, as the file calls it."""


class PairFault(Part):
    """The first tensor, in the order in which B computes, that differs though all that goes into it agrees."""

    signature: str
    excess: float | None
    relative: float | None
    """norm(B - A) / norm(A)."""
    position: list[int]
    """Of the number that is furthest off."""
    values: list[float | None]
    """A's and B's there."""
    a: PairOperator
    b: PairOperator
    inputs: str = ""
    """On which the two differ there, in words."""
    why: str = ""
    """What differs in the operator itself, in words: its options, its constants; empty where nothing does."""


class PairStatic(Part):
    """What the files themselves hold otherwise in operators that match, whether or not the inputs reach it."""

    signature: str
    severity: Literal["error", "warning"]
    """An error where numbers of one type on one kind of grid differ in quantised files: that is not a price."""
    what: Literal["operator", "option", "constant", "scale"]
    name: str
    """Of the option, or of the constant or tensor in B; empty for an operator of another kind."""
    a: PairOperator
    b: PairOperator
    words: str
    """What A and B have there."""


class PairOutput(Part):
    """An output of a signature, on one set of kernels."""

    name: str
    stage: str
    """`tflite-xnnpack`, which ships, `tflite-builtin`, or `traces` for a tap of two folders of traces."""
    verdict: Literal["pass", "fail", "price"]
    problem: str = ""
    """What forbids a comparison, in words."""
    excess: float | None = None
    relative: float | None = None
    snr_db: float | None = None
    kl_mean: float | None = None
    """KL(A || B) in nats over the last axis, of an output called logits."""


class PairSignature(Part):
    """How the tensors of one signature compare."""

    name: str
    other_name: str
    """What B calls it."""
    inputs: str
    """Where its inputs come from: a file, or a seed."""
    floor: Floor
    """What errors are counted in: float32's noise by the operators' float64 definitions, the rounding of one number
    where an operator has none, or nothing, where types or grids differ and the difference is the price of that."""
    tensors: int
    """That B computes."""
    matched: dict[str, int]
    """How many of them were matched by name, by structure and by value."""
    over: int
    """How many of those exceed the limit."""
    worst: float | None = None
    worst_tensor: str = ""
    outputs: list[PairOutput] = Field(default_factory=list)
    undefined: list[str] = Field(default_factory=list)
    """Kinds of operators without a definition in float64."""


class PairComparison(Part):
    """Two flatbuffers on the same inputs, or two folders of traces, whose inputs stand in place of signatures."""

    a: str
    b: str
    verdict: Verdict
    exit_code: int
    quantised: list[str] = Field(default_factory=list)
    """Which of them holds narrow numbers; where types or grids differ, the difference is then a price and no fault."""
    signatures: list[PairSignature] = Field(default_factory=list)
    first_fault: PairFault | None = None
    problems: list[str] = Field(default_factory=list)
    """What forbids a pass, in words: a signature that is in one file alone, an output that is not finite."""
    static: list[PairStatic] = Field(default_factory=list)
    """What differs in the operators, options and constants of the two files, in the order of B."""
    warnings: list[str] = Field(default_factory=list)
    """What was not compared and need not have been, in words: inputs of a run that the other side has no traces of."""
    runtime: str = ""
    command: str = ""
    """That compares them, as a shell takes it."""
    shows: str = ""
    """The command that shows the first fault with nothing but the runtime, or that writes a script which does."""
