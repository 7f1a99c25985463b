"""The record of a run: what `parity.json` and `taps.parquet` hold, and how they are read and written.

In: results of the pipeline. Out: a run folder that every renderer reads and none computes on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import UsageError
from harness.names.stages import Hop
from harness.plain import brief
from harness.record.tap_row import TAP_COLUMNS, TapVerdict
from harness.system.reading import read_bytes

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
RECORD_FILE = "parity.json"
TAPS_FILE = "taps.parquet"

Verdict = Literal["pass", "fail"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True, ser_json_inf_nan="null")


SourceKind = Literal["folder", "hub", "gguf", "miniature", "random"]


class Source(_Part):
    """Where the weights came from. `sha256` is over the safetensors that every stage loaded."""

    kind: SourceKind
    name: str
    sha256: str = ""
    parameters: int = 0
    seed: int | None = None


class Input(_Part):
    """One token sequence that every stage ran. `tokens` is its length."""

    id: str
    tokens: int
    text: str | None = None
    token_ids: list[int] = Field(default_factory=list)
    schedule: str = ""  # how the device runs it, e.g. "prefill_32[0:32] prefill_32[32:47] decode[47]"


class StageResult(_Part):
    """One way of running the model. `seconds` is wall time, `peak_rss_mb` of its process in MB (10^6 bytes)."""

    name: str
    status: Literal["ok", "crashed", "timeout", "skipped"]
    seconds: float = 0.0
    peak_rss_mb: float = 0.0
    detail: str = ""  # for a crash: what happened and where to read more
    facts: dict[str, Any] = Field(default_factory=dict)  # e.g. {"runtime": "ai-edge-litert 2.3.0"}


class Worst(_Part):
    """The tap that comes nearest to its limit, or goes furthest past it."""

    tap: str
    input: str
    excess: float | None
    max_abs_err: float | None
    limit: float | None = None


class LowestSnr(_Part):
    """Where the kernels of one quantised file agree least: signal to noise in dB, of a tap on an input."""

    tap: str
    input: str
    snr_db: float | None


class Logits(_Part):
    """Over all positions of all inputs. KL divergence in nats, KL(reference || candidate)."""

    max_abs_err: float | None
    rel_l2: float | None
    kl_max: float | None
    kl_mean: float | None
    top1_agreement: float | None
    flips: int
    flips_above_noise: int
    positions: int = 0


class MissingTap(_Part):
    """reason: the listed one, see `harness/judge/coverage.py`; empty where there is none, and the hop fails for it."""

    tap: str
    why: str
    reason: str = ""


class HopResult(_Part):
    """Two stages compared: `to` judged against `from`."""

    from_: str = Field(alias="from")
    to: str
    verdict: Verdict
    taps_compared: int
    taps_missing: int
    coverage: float
    coverage_required: float = 0.0
    worst: Worst | None = None
    worst_position: Worst | None = None  # the largest excess of a single token position
    lowest_snr: LowestSnr | None = None  # of a hop between kernels, in place of the excesses
    logits: Logits | None = None
    first_failing_tap: str | None = None
    missing: list[MissingTap] = Field(default_factory=list)
    reasons: list[str] = Field(default_factory=list)  # why it failed, in words; empty when it passed

    @property
    def name(self) -> str:
        return f"{self.from_}->{self.to}"

    @property
    def hop(self) -> Hop:
        return Hop.between(self.from_, self.to)

    @model_validator(mode="after")
    def _adds_up(self) -> HopResult:
        total = self.taps_compared + self.taps_missing
        if total and abs(self.coverage - self.taps_compared / total) > 1e-9:
            raise ValueError(f"hop {self.name}: coverage {self.coverage} is not {self.taps_compared}/{total}")
        if self.verdict == "fail" and not self.reasons:
            raise ValueError(f"hop {self.name} fails without a reason")
        if self.verdict == "pass" and (self.reasons or self.first_failing_tap):
            raise ValueError(f"hop {self.name} passes although {self.reasons or self.first_failing_tap}")
        return self


class Case(_Part):
    """One input on one hop: a line of the gate and of junit.xml."""

    input: str
    hop: str
    verdict: TapVerdict
    first_failing_tap: str | None = None
    excess: float | None = None
    position_excess: float | None = None
    message: str = ""


class FaultyOperator(_Part):
    """The operator of a flatbuffer that makes a tap wrong.

    whose: "kernel" or "converter". op, index, subgraph: its kind, and its numbers in the file. composites: those that
    it lies in, outermost first. tensor: its output's name. error: of the tap, as a share of its largest value; after:
    the same with what fixes it. signature: the first in which it shows.
    """

    whose: Literal["kernel", "converter"]
    op: str
    index: int
    subgraph: int
    composites: list[str] = Field(default_factory=list)
    tensor: str
    why: str
    error: float | None
    after: float | None = None
    signature: str = ""


class FirstFault(_Part):
    """A tap whose error was introduced there.

    where: what it is, in words. local_excess, local_position_excess: the error of the tap computed from the reference's
    own values, in units of what float32 costs at that step; none where no local pass could tell.
    owner: whose it is; `harness/locate/owners.py` lists them. evidence: what says so.
    """

    hop: str
    tap: str
    block: int | None
    input: str = ""
    where: str = ""
    modules: dict[str, str | None]
    op: str | None = None
    excess: float | None = None
    position_excess: float | None = None
    local_excess: float | None = None
    local_position_excess: float | None = None
    reason: str = ""
    owner: str = ""
    evidence: list[str] = Field(default_factory=list)
    operator: FaultyOperator | None = None

    @property
    def between(self) -> Hop:
        """The hop, as a value."""
        return Hop.parse(self.hop)


class Diagnosis(_Part):
    """A cause that was tried at a fault and closes the gap, best first.

    explains: share of the squared error there. excess_before, excess_after: of the error made at this tap alone, as
    it is and as it would be if that were the cause. change: what to do about it. modules: those of the tap, by version.
    """

    hypothesis: str
    detail: str
    explains: float
    excess_before: float | None = None
    excess_after: float | None = None
    change: str = ""
    hop: str = ""
    tap: str = ""
    modules: dict[str, str | None] = Field(default_factory=dict)


class Finding(_Part):
    """What numbers at the taps do not say. A difference of configs names its field, its blocks (none where it is of
    the whole model), both values and both modules. owner: whose the faults are that it makes, where it tells that by
    itself: `checkpoint`, `spec`, or a recipe."""

    kind: Literal["config", "weights", "numeric", "runtime"]
    severity: Literal["error", "warning"]
    what: str
    owner: str = ""
    field: str = ""
    blocks: list[int] = Field(default_factory=list)
    published: str = ""
    reauthored: str = ""
    modules: dict[str, str] = Field(default_factory=dict)


class LooserRule(_Part):
    """A tolerance rule of the user's that judged taps by limits looser than the shipped ones there.

    than: the shipped rule. limits: each figure with both, e.g. `excess 100 instead of 4`, or `no position_excess`.
    """

    rule: str
    than: str
    limits: list[str]


class TextLikelihood(_Part):
    """How well the reference predicts one input's text. tokens: all but the first. nll: nats per token."""

    input: str
    tokens: int
    nll: float | None
    perplexity: float | None


class EarlierLikelihood(_Part):
    """The same text in an earlier run of the model, and now, over the inputs that both have."""

    run_id: str
    nll: float
    nll_now: float
    inputs: list[str]


class Likelihood(_Part):
    """How well the reference predicts the inputs that come from text: the mean of -ln p(next token) by `oracle`.

    chance: the NLL of guessing, ln(vocabulary). earlier: of those that had the same text, the run with the lowest NLL.
    """

    nll: float | None
    perplexity: float | None
    tokens: int
    chance: float
    inputs: list[TextLikelihood]
    earlier: EarlierLikelihood | None = None


class KnownDefect(_Part):
    """A known upstream defect that this run was bound to show. What of it is an error fails the run all the same.

    state: `seen` where it shows as listed, `gone` where it does not, `elsewhere` where that hop or stage fails
    otherwise. place: where it is listed. found: what this run has there.
    """

    id: str
    title: str
    state: Literal["seen", "gone", "elsewhere"]
    place: str
    measured: str
    found: str
    cause: str
    command: str
    remedy: str = ""
    remedy_command: str = ""
    versions_differ: str = ""


class Record(_Part):
    """`parity.json`. Refuses to exist when its parts contradict each other."""

    schema_: int = Field(SCHEMA_VERSION, alias="schema")
    model: str
    run_id: str
    created: str = ""  # ISO 8601, UTC
    verdict: Verdict
    exit_code: int = 0
    source: Source | None = None
    variant: str = "default"  # how the flatbuffer was converted, e.g. "no-hlfb,kv=transposed"
    options: dict[str, Any] = Field(default_factory=dict)
    inputs: list[Input]
    stages: list[StageResult]
    hops: list[HopResult]
    cases: list[Case] = Field(default_factory=list)
    first_fault: FirstFault | None = None
    faults: list[FirstFault] = Field(default_factory=list)  # all that are not another's doing; the first one included
    diagnosis: list[Diagnosis] = Field(default_factory=list)
    unexplained: list[str] = Field(default_factory=list)  # a sentence for each fault that no hypothesis explains
    findings: list[Finding] = Field(default_factory=list)
    likelihood: Likelihood | None = None  # of the text inputs; none where no input comes from text
    known_defects: list[KnownDefect] = Field(default_factory=list)
    looser_rules: list[LooserRule] = Field(default_factory=list)
    # tap -> {"hf": "model.layers.0.mlp", "reauthored": "...", "tflite": "tensor name"}, in execution order
    taps: dict[str, dict[str, str | None]] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _adds_up(self) -> Record:
        bad = [hop.name for hop in self.hops if hop.verdict == "fail"]
        bad += [f"stage {stage.name} {stage.status}" for stage in self.stages if stage.status in ("crashed", "timeout")]
        bad += [finding.what for finding in self.findings if finding.severity == "error"]
        if self.verdict == "pass" and bad:
            raise ValueError(f"a run cannot pass with {bad[0]}")
        if self.verdict == "pass" and not self.hops:
            raise ValueError("a run that compared nothing cannot pass")
        if self.verdict == "fail" and not bad:
            raise ValueError("a run cannot fail without a failing hop, stage or finding")
        return self

    def hop(self, name: str) -> HopResult:
        for hop in self.hops:
            if hop.name == name:
                return hop
        raise KeyError(name)

    def to_json(self) -> str:
        """Strict JSON: NaN and Infinity become null."""
        return json.dumps(_finite(self.model_dump(by_alias=True, mode="python")), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def write_record(folder: Path, record: Record, rows: pd.DataFrame) -> None:
    """Write taps first and the record last: a folder with a `parity.json` is a whole one."""
    rows.to_parquet(folder / TAPS_FILE, index=False)
    write_text(folder / RECORD_FILE, record.to_json())


def write_text(path: Path, text: str) -> None:
    """Write whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_record(folder: Path) -> Record:
    """The record of a run folder. Raises UsageError when there is none or it is damaged."""
    path = folder / RECORD_FILE
    if not os.path.lexists(path):
        raise UsageError(f"no run in {folder}: it has no {RECORD_FILE}; 'edge-parity run MODEL' writes one")
    text = read_bytes(path, "run the model again")
    try:
        record = Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise UsageError(f"{path} is not a run record ({where}: {first['msg']}); run the model again") from None
    if "schema_" not in record.model_fields_set:
        raise UsageError(f"{path} does not say its 'schema'; run the model again")
    if record.schema_ != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema {record.schema_} and this version reads {SCHEMA_VERSION}; "
            "read it with the edge-parity that wrote it, or run the model again"
        )
    return record


def read_taps(folder: Path) -> pd.DataFrame:
    """The rows of a run folder's taps, checked. Raises UsageError when there are none or they are damaged."""
    from harness.record.taps_table import read_table

    return read_table(folder / TAPS_FILE, TAP_COLUMNS)


def read_run(folder: Path) -> tuple[Record, pd.DataFrame]:
    """A run's record and its taps. Raises UsageError where either is damaged, or they are of two runs."""
    record, frame = read_record(folder), read_taps(folder)
    for column, known in (
        ("hop", {hop.name for hop in record.hops}),
        ("input", {given.id for given in record.inputs}),
    ):
        strange = [name for name in frame[column].unique() if name not in known]
        if strange:
            raise UsageError(
                f"{folder / TAPS_FILE} has the {column} {brief(strange[0])}, which {RECORD_FILE} has not: they are of "
                "two runs; run the model again"
            )
    return record, frame
