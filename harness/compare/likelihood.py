"""How well the reference predicts the text of the inputs: whether what all versions agree on is a working model.

In: the oracle's traces, the inputs, and the records of earlier runs. Out: a `Likelihood`, and findings that warn.
Weights that are broken before anything reads them are broken alike in every version, and parity says nothing of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from harness.names.codes import FindingCode
from harness.names.stages import ORACLE
from harness.names.taps import LOGITS
from harness.record.record import (
    RECORD_FILE,
    EarlierLikelihood,
    Finding,
    Input,
    Likelihood,
    TextLikelihood,
)
from harness.record.runs import all_runs
from harness.store.trace import Trace, let_go

# Of guessing's NLL. Trained SmolLM2 comes to 0.33 on prose, and to 0.81 on a list of words drawn by lot.
NEAR_CHANCE = 0.9
# Nats per token above what the same text had before. Rounding weights costs less, leaving them in a wrong order more.
FAR_ABOVE = 0.5
# Fewer predicted tokens say little of a model.
FEWEST_TOKENS = 16
EARLIER_RUNS = 20
_LARGEST_RECORD = 1 << 26  # bytes
_ROWS = 64


def likelihood_of(traces: Path, inputs: Sequence[Input], vocab: int) -> Likelihood | None:
    """The oracle's likelihood of each input that comes from text, and of all together; None without one.

    traces: folder with `oracle/<input>/`. In nats per token: the mean of -ln p(token), over every token but the first.
    """
    sums = {}
    for item in inputs:
        said = item.token_ids[: len(item.token_ids) - item.drawn]  # what the reference drew is likely by itself
        if item.text is not None and len(said) > 1:
            total = _negative_log_likelihood(traces / ORACLE / item.id, said)
            if total is not None:
                sums[item.id] = (total, len(said) - 1)
    if not sums:
        return None
    total, tokens = sum(one for one, _ in sums.values()), sum(count for _, count in sums.values())
    each = [TextLikelihood(input=name, tokens=count, **_figures(one / count)) for name, (one, count) in sums.items()]
    return Likelihood(tokens=tokens, chance=math.log(vocab), inputs=each, **_figures(total / tokens))


def _figures(nll: float) -> dict[str, float]:
    return {"nll": nll, "perplexity": math.inf if nll > 700 else math.exp(nll)}


def _negative_log_likelihood(folder: Path, tokens: Sequence[int]) -> float | None:
    """Summed over all tokens but the first; None where the oracle has no logits. NaN with a NaN or infinity."""
    from harness.compare import kernels

    try:
        trace = Trace.open(folder)
    except FileNotFoundError:
        return None
    if LOGITS not in trace:
        return None
    logits, following = trace.load(LOGITS)[0], np.array(tokens[1:], np.int64)
    each = np.empty(following.size)
    for start in range(0, following.size, _ROWS):
        rows = slice(start, min(start + _ROWS, following.size))
        kernels.negative_log_likelihood(np.ascontiguousarray(logits[rows]), following[rows], each[rows])
        let_go(logits)
    return float(each.sum())


def with_earlier(found: Likelihood, inputs: Sequence[Input], out: Path, model: str) -> Likelihood:
    """The likelihood with that of the same text in the earlier run of the model that had it lowest, if there is one."""
    now = {item.input: item for item in found.inputs}
    tokens = {item.id: item.token_ids for item in inputs}
    compared = [earlier for seen in _earlier_runs(out, model) if (earlier := _same_text(seen, now, tokens)) is not None]
    if not compared:
        return found
    best = max(compared, key=lambda earlier: _above(earlier))
    return found.model_copy(update={"earlier": best})


def likelihood_findings(found: Likelihood | None, trained: bool) -> list[Finding]:
    """Warnings where the reference itself does not look like a working model.

    trained: whether it claims to be one. A miniature does not, nor do the first layers of a model.
    """
    if found is None or not trained or found.tokens < FEWEST_TOKENS or not _finite(found.nll):
        return []
    nll, earlier = _finite(found.nll), found.earlier
    if nll >= NEAR_CHANCE * found.chance:
        code, what = (
            FindingCode.TEXT_NEAR_CHANCE,
            f"the reference's NLL on the text inputs is {nll:.2f} nats per token, near the {found.chance:.2f} of "
            "guessing: the versions may agree and all be wrong; check that the weights are trained and in the order "
            "that the model expects, and that the tokenizer is this model's",
        )
    elif earlier is not None and _above(earlier) > FAR_ABOVE:
        code, what = (
            FindingCode.TEXT_WORSE,
            f"the reference's NLL on the same text was {earlier.nll:.2f} nats per token in run {earlier.run_id} "
            f"and is {earlier.nll_now:.2f} now: the versions may agree and all be wrong; "
            "check what changed in the weights",
        )
    else:
        return []
    return [Finding(kind="numeric", code=code, severity="warning", what=what)]


class _EarlierRun(BaseModel):
    """What of an earlier record is looked at."""

    run_id: str
    inputs: list[Input] = Field(default_factory=list)
    likelihood: Likelihood | None = None


def _earlier_runs(out: Path, model: str) -> Iterator[_EarlierRun]:
    """The latest runs of a model that say how likely their text was. One that cannot be read has nothing to say."""
    for folder in reversed(all_runs(out, model)[-EARLIER_RUNS:]):
        path = folder / RECORD_FILE
        try:
            if not path.is_file() or path.stat().st_size > _LARGEST_RECORD:
                continue
            seen = _EarlierRun.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        if seen.likelihood is not None:
            yield seen


def _same_text(
    seen: _EarlierRun, now: Mapping[str, TextLikelihood], tokens: Mapping[str, Sequence[int]]
) -> EarlierLikelihood | None:
    """Both runs over the inputs that have the same tokens in both; None where these are too few."""
    theirs = {item.id: item.token_ids for item in seen.inputs}
    pairs = [
        (before, now[before.input])
        for before in (seen.likelihood.inputs if seen.likelihood else ())
        if before.input in now and theirs.get(before.input) == tokens.get(before.input)
    ]
    pairs = [(before, after) for before, after in pairs if _finite(before.nll) and _finite(after.nll)]
    if sum(after.tokens for _, after in pairs) < FEWEST_TOKENS:
        return None
    before, after = (_mean(side) for side in zip(*pairs, strict=True))
    return EarlierLikelihood(
        run_id=seen.run_id, nll=before, nll_now=after, inputs=[before.input for before, _ in pairs]
    )


def _mean(each: Iterable[TextLikelihood]) -> float:
    each = list(each)
    return sum(_finite(one.nll) * one.tokens for one in each) / sum(one.tokens for one in each)


def _above(earlier: EarlierLikelihood) -> float:
    return _finite(earlier.nll_now) - _finite(earlier.nll)


def _finite(value: Any) -> float:
    """The number, or 0 for none: JSON has no NaN."""
    return float(value) if value is not None and math.isfinite(value) else 0.0
