"""The record of a run: what `parity.json` and `taps.parquet` hold, and how they are read and written.

In: results of the pipeline. Out: a run folder that every renderer reads and none computes on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from harness.errors import UsageError
from harness.plain import brief
from harness.record.faults import Diagnosis, Fault, FaultyOperator
from harness.record.findings import EarlierLikelihood, Finding, KnownDefect, Likelihood, LooserRule, TextLikelihood
from harness.record.generation import Generation
from harness.record.hops import Case, HopResult, Logits, LowestSnr, MissingTap, Worst
from harness.record.laws import LawResult
from harness.record.older import brought_up_to_date
from harness.record.origin import Input, Source, SourceKind, StageResult
from harness.record.part import Number, Part, TapVerdict, Verdict
from harness.record.recipes import QuantisedLayer, RecipeResult
from harness.record.speed import SpeedTable
from harness.record.steps import DecodeSteps
from harness.record.tap_row import TAP_COLUMNS
from harness.record.text import MeasuredText, StagePerplexity, TextFigures
from harness.system.reading import read_bytes

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FIRST_FAULT",
    "RECORD_FILE",
    "SCHEMA_VERSION",
    "TAPS_FILE",
    "Case",
    "DecodeSteps",
    "Diagnosis",
    "EarlierLikelihood",
    "Fault",
    "FaultyOperator",
    "Finding",
    "HopResult",
    "Input",
    "KnownDefect",
    "LawResult",
    "Likelihood",
    "Logits",
    "LooserRule",
    "LowestSnr",
    "MeasuredText",
    "MissingTap",
    "QuantisedLayer",
    "RecipeResult",
    "Record",
    "Source",
    "SourceKind",
    "StagePerplexity",
    "StageResult",
    "TapVerdict",
    "TextFigures",
    "TextLikelihood",
    "Verdict",
    "Worst",
    "read_record",
    "read_run",
    "read_taps",
    "write_record",
    "write_text",
]

SCHEMA_VERSION = 1
RECORD_FILE = "parity.json"
TAPS_FILE = "taps.parquet"
FIRST_FAULT = "first_fault"  # a key of `parity.json` that is made of another one


class Record(Part):
    """`parity.json`. Refuses to exist when its parts contradict each other."""

    schema_: int = Field(SCHEMA_VERSION, alias="schema")
    """The version of this format."""
    model: str
    run_id: str
    created: str = ""
    """ISO 8601, UTC."""
    verdict: Verdict
    exit_code: int = 0
    """What the command ended with."""
    source: Source | None = None
    variant: str = "default"
    """How the flatbuffer was converted, e.g. `no-hlfb,kv=transposed`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What was asked for."""
    inputs: list[Input]
    stages: list[StageResult]
    hops: list[HopResult]
    """In the order of the pipeline."""
    cases: list[Case] = Field(default_factory=list)
    faults: list[Fault] = Field(default_factory=list)
    """All taps at fault that are not another's doing, in the order of the pipeline."""
    steps: list[DecodeSteps] = Field(default_factory=list)
    """What each decode step came to, of each hop and each input with more than one."""
    diagnosis: list[Diagnosis] = Field(default_factory=list)
    """Causes that close the gap at a fault, best first."""
    unexplained: list[str] = Field(default_factory=list)
    """A sentence for each fault that no hypothesis explains."""
    findings: list[Finding] = Field(default_factory=list)
    laws: list[LawResult] = Field(default_factory=list)
    """What must hold with no reference, of each stage; none where the laws were not checked."""
    likelihood: Likelihood | None = None
    """Of the text inputs; none where no input comes from text."""
    text: MeasuredText | None = None
    """What perplexity was measured on, and of each stage; none where no recipe was judged and no text given."""
    generation: Generation | None = None
    """What every stage generated after the prompts; none where that was not asked for."""
    known_defects: list[KnownDefect] = Field(default_factory=list)
    looser_rules: list[LooserRule] = Field(default_factory=list)
    recipes: list[RecipeResult] = Field(default_factory=list)
    """What each recipe made of the weights; none where nothing was quantised."""
    speed: SpeedTable | None = None
    """How fast each stage is; none where that was not measured."""
    taps: dict[str, dict[str, str | None]] = Field(default_factory=dict)
    """Every tap in execution order, with its module or tensor by version: `hf`, `reauthored`, `tflite`."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Whatever could change a number: versions of packages, the processor."""
    timings: dict[str, Number] = Field(default_factory=dict)
    """Wall time of the parts of the run, in seconds."""

    @model_validator(mode="before")
    @classmethod
    def _of_this_version(cls, given: Any) -> Any:
        return brought_up_to_date(given)

    @property
    def first_fault(self) -> Fault | None:
        """The first tap of the first failing hop whose error is introduced there."""
        return self.faults[0] if self.faults else None

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
        """Strict JSON: NaN and Infinity become null. `first_fault` is written too, for readers, before `faults`."""
        content: dict[str, Any] = {}
        for key, value in self.model_dump(by_alias=True, mode="python").items():
            if key == "faults":
                content[FIRST_FAULT] = value[0] if value else None
            content[key] = value
        return json.dumps(_finite(content), indent=1, allow_nan=False)


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
