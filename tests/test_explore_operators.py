"""Graphs of operators: which tap an operator belongs to, on both sides of a hop, and what a person sees of it."""

from __future__ import annotations

from harness.explore.op_files import node_ids
from harness.explore.ops import Op, OpGraph, belonging, bypassed, made_by


def graph(taps: dict[str, str], **sources: str) -> OpGraph:
    """Operators by name, each with the names of its sources, in execution order."""
    return OpGraph(tuple(Op(name, name, "", tuple(read.split())) for name, read in sources.items()), taps)


def test_an_operator_between_two_taps_belongs_to_the_one_that_it_feeds() -> None:
    made = graph(
        {"attn.norm": "norm", "attn.q": "project"}, x="", square="x", norm="x square", cast="norm", project="cast"
    )
    owned = belonging(made)
    assert owned["square"] == ("attn.norm",)
    assert owned["x"] == ("attn.norm",)
    assert owned["cast"] == ("attn.q",)
    assert owned["norm"] == ("attn.norm",), "one that makes a tap is its own, whatever it feeds"


def test_an_operator_that_makes_several_taps_has_all_of_them() -> None:
    made = graph(
        {"attn.q": "fused", "attn.k": "fused", "attn.q_rope": "turn"}, x="", fused="x", split="fused", turn="split"
    )
    assert made_by(made) == {"fused": ("attn.q", "attn.k"), "turn": ("attn.q_rope",)}
    assert belonging(made)["fused"] == ("attn.q", "attn.k")
    assert belonging(made)["split"] == ("attn.q_rope",)


def test_what_several_taps_share_belongs_to_the_first_of_them() -> None:
    made = graph({"q_rope": "q", "k_rope": "k"}, tables="", q="tables", k="tables")
    assert belonging(made)["tables"] == ("q_rope",)


def test_what_feeds_no_tap_belongs_to_none() -> None:
    made = graph({"logits": "head"}, x="", head="x", after="head")
    assert "after" not in belonging(made)


def test_what_hands_on_its_source_unchanged_is_looked_through() -> None:
    ops = graph({}, x="", mark="x", again="mark", y="again x").ops
    kept, stands_for = bypassed(ops, ["mark", "again"])
    assert [op.id for op in kept] == ["x", "y"]
    assert kept[1].sources == ("x", "x")
    assert stands_for == {"mark": "x", "again": "x"}


def test_operators_that_make_the_same_tap_have_the_same_id_on_both_sides_and_no_others_do() -> None:
    one = graph({"attn.q": "linear", "attn.k": "linear_1"}, x="", linear="x", linear_1="x", add="linear")
    two = graph({"attn.q": "linear", "attn.k": "linear"}, x="", linear="x", add="linear")
    left, right = (set(node_ids(made, stage).values()) for made, stage in ((one, "hf"), (two, "reauthored")))
    assert left & right == {"attn.q"}


def test_a_graph_is_the_same_after_it_was_written_down() -> None:
    made = graph({"attn.q": "y"}, x="", y="x")
    assert OpGraph.from_dict(made.as_dict()) == made
