"""The table of dataflow: what each point of a block is computed from."""

from __future__ import annotations

from harness.names.taps import BLOCK_INPUT, BLOCK_POINTS, SOURCES, reaching


def test_what_a_point_is_computed_from_comes_before_it() -> None:
    assert set(SOURCES) == set(BLOCK_POINTS)
    for point, sources in SOURCES.items():
        for source in sources:
            assert source == BLOCK_INPUT or BLOCK_POINTS.index(source) < BLOCK_POINTS.index(point)


def test_a_value_reaches_only_what_it_goes_on_to() -> None:
    assert reaching("attn.q_rope", lambda _: True) == {"attn.q", "attn.norm"}
    assert reaching("mlp.act", lambda _: False) == set(), "another value was put in place of every source"
    through_cache = reaching("attn.context", lambda point: point in ("attn.probs", "cache.k", "cache.v"))
    assert through_cache == {"attn.probs", "cache.k", "cache.v"}
    # What no local pass could replace lets what is before it through.
    assert reaching("cache.k", lambda point: point == "attn.k_rope") == {"attn.k_rope"}
    assert reaching("cache.k", lambda point: point in ("attn.k_rope", "attn.k")) == {"attn.k_rope", "attn.k"}
    assert "mlp.norm" in reaching("out", lambda _: True)
