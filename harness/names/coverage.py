"""Which taps a hop must compare: the share that it needs, and the only reasons for which a tap may be absent.

In: what a spec declares, and why a stage lacks a tap. Out: a share per hop, and whether the reason is a listed one.
Pure.

A share alone cannot say which taps may be absent, and the logits are one tap of hundreds. So a tap is absent for a
reason that `LISTED` knows, at a place where that reason can hold, or the hop fails, whatever its coverage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from harness.errors import UsageError
from harness.names.stages import (
    REAUTHORED,
    XNNPACK,
    every_stage,
    known_stage,
    split,
    stage_named,
    standard_hops,
)
from harness.names.taps import BLOCK_POINTS, EMBED, FINAL_NORM, LOGITS, split_tap
from harness.names.variant import Variant, parse_variant

STANDARD_COVERAGE: Mapping[str, float] = {hop.name: stage_named(hop.candidate).coverage for hop in standard_hops()}

# Found from a signature's inputs and outputs and the attention composite, whatever the modules are called.
ANCHORED = ("cache.k", "cache.v", "attn.q_rope", "attn.k_rope", "attn.probs", FINAL_NORM, LOGITS)
_FILES = frozenset(stage.name for stage in every_stage() if stage.runs_file)
# Of the last block, what comes after keys and values: without logits nothing reads it.
LAST_BLOCK = frozenset({*BLOCK_POINTS} - {"attn.norm", "attn.k", "attn.v", "attn.k_rope", "cache.k", "cache.v"})
FUSED_ATTENTION = "fused-attention"
FOLDED_NORM = "folded-norm"
OWN_BLOCKS = "own-blocks"
UNDECLARED_POINT = "undeclared-point"
NO_PREFILL_LOGITS = "no-prefill-logits"
NOT_GIVEN = "not-given"
SAMPLED_POSITIONS = "sampled-positions"  # of a long input: never why a tap is missing, but why positions of it are


class Absence(NamedTuple):
    """Why a stage lacks a tap, in words, and by which listed reason; no reason where none is known."""

    why: str
    reason: str = ""


@dataclass(frozen=True)
class Reason:
    """A reason for which a tap may be absent.

    points, stages: at which points of which stages it can hold. everywhere: whether it may hold on every input, or must
    leave the tap to be compared on another. imported: whether it holds of imported stages, which no registry knows.
    """

    why: str
    points: frozenset[str]
    stages: frozenset[str]
    everywhere: bool = True
    imported: bool = False

    def holds(self, stage: str, tap: str) -> bool:
        held = known_stage(stage) is None if self.imported else split(stage)[0] in self.stages
        return held and split_tap(tap)[1] in self.points


LISTED: Mapping[str, Reason] = {
    FUSED_ATTENTION: Reason(
        "inside the composite odml.scaled_dot_product_attention, which the delegate runs as one kernel",
        frozenset({"attn.probs"}),
        frozenset({XNNPACK}),
    ),
    FOLDED_NORM: Reason(
        "the converter folded the norm's weight and bias into the linear layer after it: no tensor holds its output",
        frozenset({"attn.norm", "mlp.norm", FINAL_NORM}),
        _FILES,
    ),
    OWN_BLOCKS: Reason(
        "the model's blocks are its own (alignment), and tensors of a flatbuffer are known by names of litert-torch's",
        frozenset({EMBED, *BLOCK_POINTS} - {*ANCHORED}),
        _FILES,
    ),
    UNDECLARED_POINT: Reason(
        "the model's alignment names no module for this point",
        frozenset({*BLOCK_POINTS} - {*ANCHORED}),
        frozenset({REAUTHORED}),
    ),
    NO_PREFILL_LOGITS: Reason(
        "the file gives no logits on prefill, and this input has no decode step",
        # In the last block, an exporter may leave out all that the KV cache does not need.
        frozenset({LOGITS, FINAL_NORM, *LAST_BLOCK}),
        _FILES,
        everywhere=False,
    ),
    NOT_GIVEN: Reason(
        "the imported traces do not give this tap, or their reference has none",
        frozenset({EMBED, *BLOCK_POINTS, FINAL_NORM}),  # the logits have to be there
        frozenset(),
        imported=True,
    ),
}


def listed(reason: str) -> Absence:
    return Absence(LISTED[reason].why, reason)


def checked(absent: Absence, stage: str, tap: str) -> Absence:
    """Without a reason that cannot hold at this tap of this stage."""
    reason = LISTED.get(absent.reason)
    return absent if reason is not None and reason.holds(stage, tap) else Absence(absent.why)


def check_coverage(declared: object, where: str) -> None:
    """Raises UsageError for what no hop's coverage can be. declared: as in a spec, see `coverage_of`."""
    known = ", ".join(STANDARD_COVERAGE)
    if not isinstance(declared, Mapping):
        raise UsageError(f"{where}: coverage is {declared!r}; give a dict of hop to share, the hops are {known}")
    for key, share in declared.items():
        hop, _, condition = str(key).partition(" [")
        if hop not in STANDARD_COVERAGE:
            raise UsageError(f"{where}: coverage names the hop {key!r}, which there is not; the hops are {known}")
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not number or not 0 <= share <= 1:  # NaN too
            raise UsageError(f"{where}: coverage of {key!r} is {share!r}; give a share from 0 to 1")
        if condition or str(key) != hop:
            _check_condition(condition, f"{where}: coverage names the hop {key!r}")


def _check_condition(condition: str, where: str) -> None:
    if not condition.endswith("]") or not condition.rstrip("]"):
        raise UsageError(f"{where}; give a variant's words in brackets after it, e.g. [no-hlfb]")
    try:
        parse_variant(condition.removesuffix("]"))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def coverage_of(declared: Mapping[str, float], variant: Variant) -> dict[str, float]:
    """The share of taps that each hop must compare in a variant, by hop; the standard where none is declared.

    declared: by hop, or by "HOP [VARIANT]" for every variant that has its words, e.g. "a->b [no-hlfb]": a graph may
    hold fewer tensors. Of several that apply, the last one counts.
    """
    words = set(variant.name.split(","))
    found = dict(STANDARD_COVERAGE)
    for key, share in declared.items():
        hop, _, condition = key.partition(" [")
        if set(filter(None, condition.removesuffix("]").split(","))) <= words:
            found[hop] = share
    return found
