"""What is worth knowing without being a number of a tap. In: nothing. Out: parts of a record."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.record.part import Number, Part

Severity = Literal["error", "warning"]


class Finding(Part):
    """What numbers at the taps do not say."""

    kind: Literal["config", "weights", "numeric", "runtime"]
    code: str = ""
    """What it is about, one of `harness/names/codes.py`; empty in records of older versions."""
    severity: Severity
    what: str
    """One sentence."""
    stage: str = ""
    """The stage that breaks laws."""
    owner: str = ""
    """Whose the faults are that it makes, where it tells that by itself: `checkpoint`, `spec`, or a recipe."""
    field: str = ""
    """Of a difference of configs: the field, as `rope.base`."""
    key: str = ""
    """The tensor of the checkpoint that it is about; `{}` stands for the number of a block."""
    parameter: str = ""
    """The parameter of the re-authored model that it is about; `{}` stands for the number of a block."""
    blocks: list[int] = Field(default_factory=list)
    """The blocks that it is about; none where it is of the whole model."""
    published: str = ""
    """The published value, in words."""
    reauthored: str = ""
    """The re-authored value, in words."""
    modules: dict[str, str] = Field(default_factory=dict)
    """Where to look, by version; `{}` stands for the number of a block."""


class LooserRule(Part):
    """A tolerance rule of the user's that judged taps by limits looser than the shipped ones there."""

    rule: str
    than: str
    """The shipped rule in its place."""
    limits: list[str]
    """Each figure with both limits, e.g. `excess 100 instead of 4`, or `no position_excess`."""


class TextLikelihood(Part):
    """How well the reference predicts one input's text."""

    input: str
    tokens: int
    """All but the first."""
    nll: float | None
    """In nats per token."""
    perplexity: float | None


class EarlierLikelihood(Part):
    """The same text in an earlier run of the model, and now, over the inputs that both have."""

    run_id: str
    nll: Number
    nll_now: Number
    inputs: list[str]


class Likelihood(Part):
    """How well the reference predicts the inputs that come from text: the mean of -ln p(next token) by `oracle`."""

    nll: float | None
    perplexity: float | None
    tokens: int
    chance: Number
    """The NLL of guessing, ln(vocabulary)."""
    inputs: list[TextLikelihood]
    earlier: EarlierLikelihood | None = None
    """Of the runs that had the same text, the one with the lowest NLL."""


class KnownDefect(Part):
    """A known upstream defect that this run was bound to show. What of it is an error fails the run all the same."""

    id: str
    title: str
    state: Literal["seen", "gone", "elsewhere"]
    """`seen`: it shows as listed. `gone`: it does not. `elsewhere`: that hop or stage fails otherwise."""
    hop: str = ""
    """The hop that it is listed for; empty where it is of a stage or a finding."""
    place: str
    """Where it is listed, in words."""
    measured: str
    """The figure measured there."""
    found: str
    """What this run has there."""
    cause: str
    command: str
    """Shows it."""
    remedy: str = ""
    remedy_command: str = ""
    versions_differ: str = ""
    """How the versions of this run differ from those measured with."""
