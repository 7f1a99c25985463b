"""What a stage is told: plain data that crosses a process boundary as JSON, never as a pickle of live objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from harness.align.layout import HeadLayout
from harness.variant import Variant


class Dimensions(BaseModel):
    """Sizes of a model that stages and alignment share."""

    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    interleaved: bool = True
    window: int | None = None

    @property
    def layout(self) -> HeadLayout:
        return HeadLayout(self.heads, self.kv_heads, self.head_dim, self.interleaved)

    @property
    def hf_layout(self) -> HeadLayout:
        """Fused projections of Hugging Face checkpoints are plain."""
        return HeadLayout(self.heads, self.kv_heads, self.head_dim, interleaved=False)


class JobInput(BaseModel):
    id: str
    tokens: list[int]
    decode_tail: int = 1
    text: str | None = None


class Job(BaseModel):
    """One stage's work. Paths are absolute; `traces` is the folder of this stage's traces."""

    stage: str
    spec_file: str
    spec_variable: str
    checkpoint: Path
    dimensions: Dimensions
    points: list[str]
    inputs: list[JobInput]
    prefill: list[int]
    kv_cache_len: int
    variant: Variant = Variant()
    traces: Path
    miniature: bool = False
    flatbuffer: Path | None = None
    tapped: Path | None = None
    plan: Path | None = None
    threads: int = 2
    options: dict[str, Any] = Field(default_factory=dict)
