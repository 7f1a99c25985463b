"""At the boundary of a scaled rope a right model passes on either side, and one that stays as it was fails past it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bench.workbench import FIRST, TORCH_STAGES, Bench

pytestmark = [pytest.mark.slow, pytest.mark.further]
EDGES = Path(__file__).resolve().parents[2] / "suites" / "edges"
AT, ABOVE = 64, 65

# transformers takes the long factors for a whole sequence that is longer than the boundary; litert-torch has the short
# ones alone.
LONG_ROPE = f"""
import math
from dataclasses import replace
from functools import partial

from models.phi3 import PHI3


def published():
    config = PHI3.published()
    config.original_max_position_embeddings = config.rope_parameters["original_max_position_embeddings"] = {AT}
    return config


def own():
    config = PHI3.config()
    scale = math.sqrt(1 + math.log(PHI3.published().max_position_embeddings / {AT}) / math.log({AT}))
    config.build_rope = partial(config.build_rope, scale=scale)
    return config


LONG_ROPE = replace(PHI3, name="long_rope", config=own, published=published)
"""


def failing(spec: Path) -> dict[str, str]:
    """Input -> the first tap that fails on it."""
    bench = Bench(str(spec), inputs=(("at", AT, 1), ("above", ABOVE, 1)), stages=TORCH_STAGES)
    assert bench.prepared.boundaries["rope"] == AT
    rows = bench.unbroken.frame
    wrong = rows[(rows["hop"] == FIRST) & (rows["verdict"] == "fail")].sort_values("order", ascending=False)
    return dict(zip(wrong["input"], wrong["tap"], strict=True))


def test_a_rope_that_is_scaled_alike_passes_on_both_sides() -> None:
    assert failing(EDGES / "scaled_rope.py") == {}


def test_a_rope_that_does_not_switch_fails_past_the_boundary_alone(tmp_path: Path) -> None:
    spec = tmp_path / "long_rope.py"
    spec.write_text(LONG_ROPE)
    assert failing(spec) == {"above": "block.0.attn.q_rope"}
