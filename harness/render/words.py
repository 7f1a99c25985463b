"""The verdict of a run in words. In: the record. Out: sentences for whoever decides, from the record alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.compare.value_range import short
from harness.names.stages import BUILTIN, FAKEQUANT_BUILTIN, XNNPACK, Floor, known_stage, split
from harness.names.taps import split_tap
from harness.plain import clean, one_line
from harness.record.record import Diagnosis, Fault, HopResult, KnownDefect, Record
from harness.record.tap_row import rows_in
from harness.render.numbers import compared, number
from harness.render.recipes import recipe_groups
from harness.render.sentences import capital, given_words, is_unjudged, looser_words

if TYPE_CHECKING:
    import pandas as pd

_PLACES = {
    "embed": "the embedding",
    "final_norm": "the final norm",
    "logits": "the logits",
    "attn.norm": "attention norm",
    "attn.q": "query projection",
    "attn.k": "key projection",
    "attn.v": "value projection",
    "attn.q_rope": "rotated queries",
    "attn.k_rope": "rotated keys",
    "attn.probs": "attention probabilities",
    "attn.context": "attention",
    "attn.out": "attention output",
    "residual": "residual after attention",
    "mlp.norm": "MLP norm",
    "mlp.gate": "MLP gate",
    "mlp.up": "MLP up projection",
    "mlp.act": "MLP activation",
    "mlp.out": "MLP output",
    "out": "output",
    "cache.k": "key cache",
    "cache.v": "value cache",
}
_PLURAL = re.compile(r"^(diverges|costs)")
_BOTH_RUNTIMES = {XNNPACK, BUILTIN}
_ENDED = {"crashed": "crashed", "timeout": "timed out"}


def model_words(stage: str) -> str:
    """A stage as a person says it; a quantised one with its recipe: `TFLite on XNNPACK (dynamic_int8)`."""
    known = known_stage(stage)
    return stage if known is None else known.words


def tap_words(tap: str) -> str:
    """A tap as a person says it: `block 7's MLP output`."""
    block, point = split_tap(tap)
    place = _PLACES.get(point, point)
    return place if block is None else f"block {block}'s {place}"


def cause_words(hypothesis: str) -> str:
    """The name of a hypothesis as a person says it."""
    return hypothesis.replace("_", " ")


def where(fault: Fault) -> str:
    """Where a fault is, in words."""
    return fault.where or tap_words(fault.tap)


def fault_of(record: Record, hop: HopResult) -> Fault | None:
    """The first fault of a hop."""
    return next((fault for fault in record.faults if fault.hop == hop.name), None)


def causes_of(record: Record, fault: Fault) -> list[Diagnosis]:
    """What closes the gap at a fault, best first. A diagnosis without a place is of the first fault."""
    first = fault == record.first_fault
    return [
        item for item in record.diagnosis if (item.hop, item.tap) == (fault.hop, fault.tap) or (first and not item.tap)
    ]


def verdict_words(record: Record) -> str:
    """The verdict in a sentence or two: what diverges, where and why, and what is faithful."""
    said = [*_lost(record), *_diverging(record), *_audited(record)]
    faithful = _faithful([hop for hop in record.hops if hop.verdict == "pass"])
    if faithful:
        missing = sum(hop.taps_missing for hop in record.hops if hop.verdict == "pass")
        said.append(faithful + (f"; {missing} taps could not be compared" if missing else ""))
    said += _prices(record)
    if not record.hops:
        said.append("nothing was compared")
    sentences = [f"{capital(sentence)}." for sentence in said]
    return clean(" ".join(filter(None, [*sentences, looser_words(record)])))


def text_words(record: Record) -> str:
    """How well the reference predicts the text inputs, in a sentence; empty where no input comes from text."""
    found = record.likelihood
    if found is None:
        return ""
    tokens = f"{found.tokens} {'token' if found.tokens == 1 else 'tokens'}"
    earlier = f"; run {found.earlier.run_id} had {number(found.earlier.nll)} on the same text" if found.earlier else ""
    return clean(
        f"On the text inputs the reference's NLL is {compared(found.nll)} nats per token (perplexity "
        f"{compared(found.perplexity)}, {tokens}); guessing comes to {number(found.chance)}{earlier}."
    )


def reach_words(frame: pd.DataFrame) -> str:
    """How far the reference's values get, in a sentence; empty in runs of older versions."""
    if not {"value_min", "value_max"} <= set(frame.columns):
        return ""
    reach = frame[["value_min", "value_max"]].abs().max(axis=1)
    if not reach.notna().any():
        return ""
    (row,) = rows_in(frame.iloc[[int(reach.argmax())]])
    return clean(
        f"The reference's values reach {short(float(reach.max()))} ({row.tap}, input {one_line(row.input, 40)}); "
        f"float16 ends at 65,504.{_subnormal_words(frame)}"
    )


def _subnormal_words(frame: pd.DataFrame) -> str:
    """The tap with the largest share of values that lose digits in float16; empty where none does, or is known to."""
    share = frame.get("subnormal_share")
    if share is None or not share.max() > 0:
        return ""
    (row,) = rows_in(frame.iloc[[int(share.argmax())]])
    most = f"{100 * float(share.max()):.2g} % of a tap's values"
    return f" At most {most} are subnormal there, below 6.1e-5 ({row.tap}, input {one_line(row.input, 40)})."


def _lost(record: Record) -> Iterator[str]:
    for stage in record.stages:
        if stage.status in _ENDED:
            yield f"stage {stage.name} {_ENDED[stage.status]}"


def _diverging(record: Record) -> Iterator[str]:
    """A sentence for each failing hop, and one for hops that differ at the same place for the same reason."""
    sentences: dict[str, list[str]] = {}
    for hop in record.hops:
        if hop.verdict == "fail":
            sentences.setdefault(_divergence(record, hop), []).append(_who(hop))
    for rest, who in sentences.items():
        yield f"{_joined(who)} {rest if len(who) == 1 else _PLURAL.sub(lambda verb: verb[0][:-1], rest)}"


def _who(hop: HopResult) -> str:
    """Who diverges on a hop: where that is what a recipe costs, the recipe."""
    base, recipe = split(hop.to)
    if hop.hop.floor is not Floor.PRICE:
        return model_words(hop.to)
    return f"recipe {recipe}{' with inputs quantised as builtin kernels do' if base == FAKEQUANT_BUILTIN else ''}"


def _divergence(record: Record, hop: HopResult) -> str:
    if not hop.taps_compared:
        return "could not be compared"
    fault = fault_of(record, hop)
    tap = fault.tap if fault else hop.first_failing_tap
    if tap is None:
        return f"fails: {hop.reasons[0]}" if hop.reasons else "fails"
    if fault is not None and is_unjudged(fault):  # no fault of the model that the hop judges
        return given_words(fault, tap_words(tap))
    causes = causes_of(record, fault) if fault else []
    known = _known(record, hop)
    why = f": {cause_words(causes[0].hypothesis)}" if causes else ""
    return f"diverges from {tap_words(tap)}{why}{f' (known upstream defect {known.id})' if known else ''}"


def _known(record: Record, hop: HopResult) -> KnownDefect | None:
    """The known defect that a hop shows as it is listed."""
    return next((known for known in record.known_defects if known.state == "seen" and hop.name == known.hop), None)


def _audited(record: Record) -> Iterator[str]:
    """Errors that no number at a tap shows: without a failing hop they are the verdict."""
    errors = [finding for finding in record.findings if finding.severity == "error"]
    if errors and all(hop.verdict == "pass" for hop in record.hops):
        more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        audit = "" if errors[0].kind == "runtime" else f"an audit of the {errors[0].kind} fails: "
        yield f"{audit}{errors[0].what.rstrip('.')}{more}"


def _faithful(hops: Sequence[HopResult]) -> str:
    """What passes: to what each is faithful, each reference once; then the quantised files."""
    sides: dict[str, list[str]] = {}
    quantised: dict[tuple[str, ...], list[str]] = {}
    for hop in hops:
        base, recipe = split(hop.to)
        if hop.hop.floor is Floor.NOISE:
            sides.setdefault(hop.from_, []).append(hop.to)
        elif hop.hop.floor is not Floor.PRICE:  # a price does not say how faithful a step is
            quantised.setdefault((base, split(hop.from_)[0] if hop.hop.on_kernels else ""), []).append(recipe)
    said = []
    for reference, stages in sides.items():
        both = set(stages) >= _BOTH_RUNTIMES
        others = [stage for stage in stages if not both or stage not in _BOTH_RUNTIMES]
        names = [*(["TFLite"] if both else []), *map(model_words, others)]
        verb = "is" if len(names) == 1 else "are"
        said.append(f"{_joined(names)} {verb} faithful to {model_words(reference)}")
    return "; ".join([*said, *_computed(quantised)])


def _computed(quantised: dict[tuple[str, ...], list[str]]) -> Iterator[str]:
    """(stage, the other kernels or none) -> recipes, in words; stages of which the same is to be said together."""
    same: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (base, other), files_of in quantised.items():
        same.setdefault((other, tuple(files_of)), []).append(model_words(base))
    both = {model_words(stage) for stage in _BOTH_RUNTIMES}
    for (other, recipes), stages in same.items():
        who: Sequence[str] = ["TFLite"] if set(stages) == both else stages
        files = f"the {'file' if len(recipes) == 1 else 'files'} of {_joined(recipes)}"
        if other:
            yield f"{_joined(who)} and {model_words(other)} agree on {files}"
        else:
            yield f"{_joined(who)} {'computes' if len(who) == 1 else 'compute'} {files} as written"


def _prices(record: Record) -> Iterator[str]:
    """What each recipe costs, in one sentence for all."""
    said = [
        f"{compared(price.logits.kl_mean)}{'' if i else ' nats'} for {group.name}"
        for i, group in enumerate(recipe_groups(record))
        for price in group.prices[:1]
        if price.logits is not None
    ]
    if said:
        yield f"the mean KL that quantising costs is {_joined(said)}"


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
