"""What can be wrong where tokens become vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from harness.explain import functions as f
from harness.explain.decoder import TOKENS
from harness.explain.evidence import Evidence
from harness.explain.hypotheses import Proposal, hypothesis


@hypothesis("embedding_scale", "embed")
def embedding_scale(evidence: Evidence) -> Iterator[Proposal]:
    structure = evidence.decoder.structure
    published, hidden = structure.embedding_scale, structure.hidden_size
    size = float(np.square(evidence.expected).sum())
    fitted = published * float((evidence.observed * evidence.expected).sum()) / size if size else 0.0
    root = math.sqrt(hidden)
    rounded = float(f.to_bfloat16(np.array([root]))[0])
    cases = {fitted: "", 1.0: ", no scale at all", root: f", the root of {hidden}"}
    cases[rounded] = f", the root of {hidden} rounded to bfloat16"
    for value, words in cases.items():
        if value and math.isfinite(value) and value != published:
            yield Proposal(
                f"embedding scale: {published:.7g} published, {evidence.candidate} has {value:.7g}{words}",
                f"set embedding_scale to {published:.7g}",
                evidence.predict(evidence.decoder.with_structure(embedding_scale=value)),
                fitted=int(not words),
            )


@hypothesis("embedding_rows", "embed", simplicity=3)
def embedding_rows(evidence: Evidence) -> Iterator[Proposal]:
    """Few tokens are wrong, each wherever it occurs."""
    if evidence.same_weights:
        return
    tokens = evidence.known[TOKENS][evidence.rows]
    errors = evidence.errors(evidence.expected)
    wrong = np.unique(tokens[errors > 10])
    if not len(wrong) or len(wrong) > max(1, len(np.unique(tokens)) // 4):
        return
    at = np.isin(tokens, wrong)
    if (errors[at] <= 10).any():  # a row is the same wherever its token stands: something else is wrong at the others
        return
    predicted = evidence.expected.copy()
    predicted[at] = evidence.observed[at]
    gap = np.abs(evidence.observed[at] - evidence.expected[at]).max(0)
    channels = np.flatnonzero(gap > 1e-3 * gap.max())
    where = f", channel {int(channels[0])} alone" if len(channels) == 1 else ""
    name = f"{evidence.module('embedding')}.weight"
    shown = ", ".join(str(int(token)) for token in wrong[:8])
    yield Proposal(
        f"rows of {name} are off: those of token {shown}{where}",
        f"restore these rows of {name}",
        predicted,
        fitted=int(at.sum()),
    )


@hypothesis("embedding_token_offset", "embed", simplicity=1)
def token_offset(evidence: Evidence) -> Iterator[Proposal]:
    table = evidence.decoder.weights.need("embedding") * evidence.decoder.structure.embedding_scale
    tokens = evidence.known[TOKENS][evidence.rows].astype(np.int64)
    for shift in (1, -1):
        yield Proposal(
            f"{evidence.candidate} looks up token {shift:+d} in place of each token",
            "look up the token itself",
            table[np.clip(tokens + shift, 0, len(table) - 1)],
        )
