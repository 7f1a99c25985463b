"""What a run is asked for and what the preparation makes of it: the contract between command line and stages.

In: nothing. Out: `Request` and `Prepared`, which cross process borders as JSON. Imports no framework and no numpy,
so that a refusal of bad input does not wait for them.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from harness.jobs.job import Dimensions, JobInput
from harness.names.recipes import Recipe, Rules
from harness.names.sample import WHOLE_UP_TO
from harness.names.stages import FLOAT, REAUTHORED, Hop, present, split, stage_named
from harness.names.variant import Variant, VariantOptions
from harness.record.record import Finding, Source
from harness.weights.parameters import ParameterSource


class Request(BaseModel):
    """What the command line asked for. Paths are absolute."""

    spec_file: str
    spec_variable: str
    checkpoint: str | None = None
    miniature: bool = False
    layers: int | None = None
    seed: int = 0
    tflite: str | None = None
    prompts: list[str] = Field(default_factory=list)
    inputs_file: str | None = None
    chat: bool = False  # whether prompts go through the tokenizer's chat template
    decode: int = 0  # tokens that the reference draws and every stage decodes
    edges: bool = False  # whether the edges of the context are inputs too
    whole_up_to: int = WHOLE_UP_TO  # positions of an input of which every tap is traced
    variant: VariantOptions = VariantOptions()
    quantize: list[Recipe] = Field(default_factory=list)
    text: str | None = None  # path of the text to measure perplexity on; None for the one that ships
    reads_text: bool = False
    cache_root: str = ""


class TextToRun(BaseModel):
    """The text that perplexity is measured on, or why there is none."""

    name: str = ""  # the file's path, or that of the text that ships
    sha256: str = ""  # of the text
    windows: list[JobInput] = Field(default_factory=list)
    why_not: str = ""

    @property
    def predicted(self) -> int:
        """How many tokens: all but the first of each window."""
        return sum(len(window.tokens) - 1 for window in self.windows)


class Prepared(BaseModel):
    """undeclared: points for which the model's alignment names no module. prefill_logits: whether the file must give
    logits on prefill; one that ships need not. to_draw: inputs that lack the tokens that the reference draws; none once
    it has. boundaries: what a position may be at the edge of, see `harness/names/boundaries.py`. recipes: name ->
    rules. converted: those of them that are conversions of their own, see `RouteModel.converts`. text: is run for its
    logits alone, where recipes are judged or a text is given. parameters, tables, windows: what the audit of a
    flatbuffer's constants needs, see `harness/audit/`.
    """

    model: str
    own_stage: str = REAUTHORED  # that runs the route's own version
    source: Source
    checkpoint: str
    miniature: bool
    layers: int | None = None
    dimensions: Dimensions
    points: list[str]
    own_blocks: bool = False
    taps: list[str]
    modules: dict[str, dict[str, str | None]]
    inputs: list[JobInput]
    to_draw: list[JobInput] = Field(default_factory=list)
    schedules: dict[str, str]
    boundaries: dict[str, int] = Field(default_factory=dict)
    prefill: list[int]
    kv_cache_len: int
    whole_up_to: int = WHOLE_UP_TO
    variant: Variant
    undeclared: list[str] = Field(default_factory=list)
    prefill_logits: bool = True
    coverage: dict[str, float]
    conversion_key: str
    recipes: dict[str, Rules] = Field(default_factory=dict)
    converted: list[str] = Field(default_factory=list)
    findings: list[Finding]
    edges: list[str] = Field(default_factory=list)  # ids of the inputs that `--edges` added
    stop_tokens: list[int] = Field(default_factory=list)  # at which an app ends a text
    text: TextToRun = TextToRun()
    rms_norms: bool = False  # whether the norms of the blocks and the final one are RMS norms
    audited: bool = False  # whether those of the config audit are among the findings
    parameters: list[ParameterSource] = Field(default_factory=list)
    tables: list[list[float]] = Field(default_factory=list)
    windows: list[int] = Field(default_factory=list)

    @property
    def weights_mb(self) -> float:
        """The model's weights in float32."""
        return self.source.parameters * 4 / 1e6

    def coverage_required(self, hop: Hop) -> float:
        """The share of taps that a hop must compare: a quantised file's kernels see as many as its float32 twin's.

        Kernels that judge no float32 file see what those do that they are compared with.
        """
        stage = stage_named(split(hop.candidate)[0])
        twin = stage if stage.reference else stage_named(stage.quantised_reference)
        return self.coverage.get(Hop(present(twin.reference, (self.own_stage,)), twin.name).name, twin.coverage)


class ModelRequest(BaseModel):
    """What a process is told that works on a run's model. Paths are absolute."""

    prepared: Prepared
    cache_root: str
    spec_file: str
    spec_variable: str


class ConvertRequest(ModelRequest):
    """What is told to whoever converts. recipe: a mode that is a conversion of its own."""

    recipe: str = FLOAT


class QuantiseRequest(ModelRequest):
    """What is told to whoever quantises a float32 flatbuffer."""

    recipe: str
    flatbuffer: str  # path
    sha256: str  # of it


class TapRequest(ModelRequest):
    """What the alignment of a flatbuffer is told."""

    recipe: str = FLOAT
    flatbuffer: str  # path
    sha256: str | None = None  # of a file that was converted here; None of one that the user gave
    float32: str = ""  # path of the float32 file that a recipe was applied to
    float32_plan: str = ""  # path of its alignment plan
