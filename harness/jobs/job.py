"""What a stage is told: plain data that crosses a process boundary as JSON, never as a pickle of live objects."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from harness.align.layout import HeadLayout
from harness.names.sample import WHOLE_UP_TO
from harness.names.stages import REAUTHORED
from harness.names.taps import LOGITS
from harness.names.variant import Variant
from harness.weights.families import Sizes


class Dimensions(BaseModel):
    """Sizes of a model that stages and alignment share.

    Those of the re-authored config; where the published one has others, hf_heads and hf_head_dim are its own, heads and
    KV heads of each block, and hf_vocab its vocabulary: what the reference computes is read by them.
    layer_heads: heads and KV heads of each block where they differ; `heads` and `kv_heads` are block 0's.
    interleaved, hf_interleaved: how the fused q, k, v of the re-authored and of the HF model are laid out.
    fused_gate: one projection holds the MLP's gate and up.
    """

    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    interleaved: bool = True
    hf_interleaved: bool = False
    fused_gate: bool = False
    layer_heads: list[tuple[int, int]] = Field(default_factory=list)
    window: int | None = None
    hf_heads: list[tuple[int, int]] = Field(default_factory=list)
    hf_head_dim: int | None = None
    hf_vocab: int | None = None

    @property
    def tokens(self) -> int:
        """How many tokens every version knows."""
        return min(self.vocab, self.hf_vocab or self.vocab)

    @property
    def layout(self) -> HeadLayout:
        return HeadLayout(self.heads, self.kv_heads, self.head_dim, self.interleaved)

    def layout_of(self, block: int) -> HeadLayout:
        heads, kv_heads = self.layer_heads[block] if self.layer_heads else (self.heads, self.kv_heads)
        return HeadLayout(heads, kv_heads, self.head_dim, self.interleaved)

    def hf_layout_of(self, block: int) -> HeadLayout:
        own = self.layout_of(block)
        # The re-authored model may have more blocks than the published one.
        heads, kv_heads = self.hf_heads[block] if block < len(self.hf_heads) else (own.heads, own.kv_heads)
        return HeadLayout(heads, kv_heads, self.hf_head_dim or self.head_dim, self.hf_interleaved)


def dimensions_of(sizes: Sizes) -> Dimensions:
    """Those of a model whose layers all have these sizes."""
    return Dimensions(
        blocks=sizes.layers,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        hidden=sizes.hidden,
        vocab=sizes.vocab,
    )


class JobInput(BaseModel):
    id: str
    tokens: list[int]
    decode_tail: int = 1
    earlier: list[tuple[int, int]] = Field(default_factory=list)  # turns before the last one, see `TokenInput`
    text: str | None = None
    drawn: int = 0  # how many of the last tokens the reference drew; of one that is to be drawn, how many it will
    logits_only: bool = False  # a window of the text that is measured: nothing but its logits is traced

    @property
    def of_text(self) -> list[int]:
        """The tokens without those that the reference drew."""
        return self.tokens[: len(self.tokens) - self.drawn]

    @property
    def only(self) -> str | None:
        """The one tap that its trace holds; None: all."""
        return LOGITS if self.logits_only else None


class TwinJob(BaseModel):
    """What a stage takes over from its twin, see `harness/jobs/twin.py`."""

    traces: Path
    facts: dict[str, object]


class Job(BaseModel):
    """One stage's work. Paths are absolute; `traces` is the folder of this stage's traces.

    opens: "module:function" that opens the stage, see `harness/jobs/session.py`.
    own_stage: the stage that runs the version of the model's route.
    reference: the folder of the traces whose values replace the stage's own, which makes it a local pass: it writes to
    `local(traces)`.
    whole_up_to: the longest input that is traced at every position of every tap, see `harness/inputs/sampling.py`.
    """

    stage: str
    spec_file: str
    spec_variable: str
    checkpoint: Path
    dimensions: Dimensions
    points: list[str]
    inputs: list[JobInput]
    prefill: list[int]
    kv_cache_len: int
    whole_up_to: int = WHOLE_UP_TO
    variant: Variant = Variant()
    traces: Path
    opens: str = ""
    own_stage: str = REAUTHORED
    reference: Path | None = None
    miniature: bool = False
    layers: int | None = None
    flatbuffer: Path | None = None
    tapped: Path | None = None
    plan: Path | None = None
    threads: int = 2
    twin: TwinJob | None = None
    laws: JobInput | None = None  # what the laws are checked on: tokens that another input of the same id begins with
    search: list[str] = Field(default_factory=list)  # taps whose faulty operators are searched for
    search_at: dict[str, int] = Field(default_factory=dict)  # of those that decode alone has wrong: the position
    record_at: int | None = None  # the one step that is recorded, by its position; none: every step
