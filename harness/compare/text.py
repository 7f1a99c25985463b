"""How well each stage predicts the text that is measured, and how far the two stages of each hop are apart on it.

In: traces of the text's windows, which hold logits alone. Out: a perplexity per stage, figures per hop. One block of
positions is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from harness.compare.logits import answer_flips, percentiles
from harness.compare.metrics import LogitStats, logit_stats
from harness.compare.traces import blocks
from harness.names.stages import Hop
from harness.names.taps import LOGITS
from harness.record.text import StagePerplexity, TextFigures
from harness.store.trace import Trace, let_go

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TextComparison:
    """stages: those that have logits at every position that is asked for. hops: by name, those of two such stages."""

    stages: tuple[StagePerplexity, ...] = ()
    hops: Mapping[str, TextFigures] = field(default_factory=dict)


def compare_text(
    traces: Path, stages: Sequence[str], hops: Sequence[Hop], windows: Mapping[str, Sequence[int]]
) -> TextComparison:
    """windows: id -> tokens, of those that every stage was told to run. Every token but the first is predicted.

    A stage that lacks a position, as one that failed does, is left out, and so are its hops: fewer positions are
    another text, and two perplexities of two texts say nothing.
    """
    found = {stage: nll for stage in stages if (nll := _nll(traces / stage, windows)) is not None}
    each = tuple(_perplexity(stage, nll) for stage, nll in found.items())
    return TextComparison(
        each, {hop.name: _hop(traces, hop, windows, found) for hop in hops if set(hop.stages) <= found.keys()}
    )


def _nll(folder: Path, windows: Mapping[str, Sequence[int]]) -> float | None:
    """-ln p(next token), mean over all predicted tokens; None where a position lacks. NaN with a NaN or infinity."""
    from harness.compare import kernels

    parts = []
    for name, tokens in windows.items():
        logits = _logits(folder / name, len(tokens))
        if logits is None:
            return None
        following = np.array(tokens[1:], np.int64)
        each = np.empty(following.size)
        for rows in blocks([slice(0, following.size)], logits):
            kernels.negative_log_likelihood(np.ascontiguousarray(logits[0, rows]), following[rows], each[rows])
        let_go(logits)
        parts.append(each)
    return float(np.concatenate(parts).mean())


def _logits(folder: Path, length: int) -> Array | None:
    """Of a window; None where the stage did not end it, or lacks the logits of a position that another one follows."""
    try:
        trace = Trace.open(folder)
    except FileNotFoundError:
        return None
    if LOGITS not in trace:
        return None
    covered = np.zeros(length, bool)
    for start, stop in trace.covered(LOGITS):
        covered[start:stop] = True
    return trace.load(LOGITS) if covered[:-1].all() else None


def _perplexity(stage: str, nll: float) -> StagePerplexity:
    return StagePerplexity(stage=stage, nll=nll, perplexity=_exp(nll))


def _exp(nats: float) -> float:
    return math.inf if nats > 700 else math.exp(nats)


def _hop(traces: Path, hop: Hop, windows: Mapping[str, Sequence[int]], nll: Mapping[str, float]) -> TextFigures:
    stats, changed = [], []
    for name, tokens in windows.items():
        for of_rows, following in _rows(traces, hop, name, tokens):
            stats.append(of_rows)
            changed.append(answer_flips(of_rows, following))
    joined = {one.name: np.concatenate([getattr(part, one.name) for part in stats]) for one in fields(LogitStats)}
    agree = joined["top1_reference"] == joined["top1_candidate"]
    kl = joined["kl"]
    return TextFigures(
        positions=int(kl.size),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        **percentiles(kl),
        top1_agreement=float(agree.mean()),
        flips=int((~agree).sum()),
        answer_flips=int(np.concatenate(changed).sum()),
        perplexity_ratio=_exp(nll[hop.candidate] - nll[hop.reference]),
    )


def _rows(traces: Path, hop: Hop, name: str, tokens: Sequence[int]) -> Iterator[tuple[LogitStats, Array]]:
    """The logits of a window, a block of positions at a time, and the token after each."""
    reference, candidate = (_logits(traces / stage / name, len(tokens)) for stage in hop.stages)
    assert reference is not None
    assert candidate is not None
    following = np.array(tokens[1:], np.int64)
    for rows in blocks([slice(0, following.size)], reference, candidate):
        yield logit_stats(reference[:, rows], candidate[:, rows]), following[rows]
    let_go(reference)
    let_go(candidate)
