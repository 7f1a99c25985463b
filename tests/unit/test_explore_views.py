"""What `edge-parity explore` shows: the right hop, opened at the right place, the same on both sides."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from record_factory import BLOCKS, CRASHED, FAULTY_TAP, HOSTILE, KINDS, NAN_TAP, make_run
from views import FIRST, HOP_OF, view_of

from harness.errors import UsageError
from harness.explore.legend import legend
from harness.explore.op_files import ALONE, PARTNER
from harness.explore.panes import View
from harness.explore.tap_level import choose_hop, tap_view, where_to_open
from harness.explore.web_app import adapted, find_web_app
from harness.names.taps import tap_order
from harness.record.record import LowestSnr
from harness.render.explorer import OVERLAYS


def content(view: View, name: str) -> Any:
    return json.loads(view.documents[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_hop_of_the_first_fault_is_opened_else_the_first_one_with_taps(kind: str) -> None:
    assert choose_hop(*make_run(kind)).name == HOP_OF[kind]


def test_a_hop_that_fails_without_a_fault_comes_before_one_that_passes() -> None:
    record, frame = make_run("kernel")
    assert choose_hop(record.model_copy(update={"faults": []}), frame).name == HOP_OF["kernel"]


def test_a_hop_that_is_asked_for_is_opened() -> None:
    assert choose_hop(*make_run("fail"), HOP_OF["nan"]).name == HOP_OF["nan"]


def test_an_unknown_hop_is_told_which_ones_there_are() -> None:
    with pytest.raises(UsageError, match=r"--hop hf- is not a hop of run .*hf->reauthored, .*in quotes"):
        choose_hop(*make_run("pass"), "hf-")


def test_a_hop_whose_stage_crashed_says_so_and_names_the_others() -> None:
    with pytest.raises(UsageError, match=f"nothing was compared.*stage {CRASHED} crashed.*give another: {FIRST}"):
        choose_hop(*make_run("crash"), f"reauthored->{CRASHED}")


def test_a_run_that_compared_nothing_has_no_graph() -> None:
    record, frame = make_run("crash")
    with pytest.raises(UsageError, match=r"compared no tap on any hop .stage tflite-xnnpack crashed"):
        choose_hop(record, frame[:0])


@pytest.mark.parametrize("kind", KINDS)
def test_reference_and_candidate_have_the_same_nodes_and_every_overlay(kind: str) -> None:
    view, (source, target) = view_of(kind), HOP_OF[kind].split("->")
    for side, stage in (("left", source), ("right", target)):
        (graph,) = content(view, f"{side}/graph.json")["graphs"]
        assert graph["id"] == stage
        assert [node["id"] for node in graph["nodes"]] == tap_order(BLOCKS)
        for overlay in OVERLAYS:
            assert content(view, f"{side}/{overlay}")[stage]["name"] == overlay


@pytest.mark.parametrize(
    ("kind", "node", "block"),
    [("fail", FAULTY_TAP, 2), ("kernel", FAULTY_TAP, 2), ("nan", NAN_TAP, 3), ("hostile", FAULTY_TAP, 2)],
)
def test_both_panes_open_at_the_first_fault_with_its_block_unfolded(kind: str, node: str, block: int) -> None:
    view = view_of(kind)
    for pane in (view.left, view.right):
        assert pane.node == node
        assert set(pane.layers) == {f"block_{block}", f"block_{block}/attn", f"block_{block}/mlp"}
    assert f"at its first fault {node}" in view.words


def test_a_hop_that_passes_opens_at_the_tap_nearest_to_its_limit() -> None:
    record, frame = make_run("pass")
    hop = record.hops[0]
    worst = frame[frame["hop"] == hop.name].copy()
    worst["used"] = (
        worst[["excess", "position_excess"]]
        .div(worst[["excess_limit", "position_excess_limit"]].to_numpy())
        .max(axis=1)
    )
    assert where_to_open(record, hop)[1] == worst.loc[worst["used"].idxmax(), "tap"]
    assert "nearest to its limit" in view_of("pass").words


def test_a_fault_outside_the_blocks_opens_no_block() -> None:
    record, frame = make_run("fail")
    fault = record.first_fault.model_copy(update={"tap": "logits", "block": None})
    view = tap_view(record.model_copy(update={"faults": [fault]}), frame, record.hops[0])
    assert (view.left.node, view.left.layers) == ("logits", ())


def test_the_overlay_shown_first_points_at_the_fault() -> None:
    assert [view_of(kind).right.shown for kind in ("pass", "fail", "nan")] == ["limit_used", "excess", "verdict"]


def test_local_excess_is_shown_first_where_it_was_judged() -> None:
    record, frame = make_run("fail")
    frame = frame.copy()
    mine = (frame["hop"] == FIRST) & (frame["tap"] == FAULTY_TAP) & (frame["input"] == "long")
    frame.loc[mine, ["local_excess", "local_excess_limit"]] = 250.0, 4.0
    fault = record.first_fault.model_copy(update={"local_excess": 250.0})
    view = tap_view(record.model_copy(update={"faults": [fault]}), frame, record.hops[0])
    assert view.left.shown == view.right.shown == "local_excess"
    assert content(view, "right/local_excess")["reauthored"]["results"][FAULTY_TAP]["value"] == 250.0


def test_two_sets_of_kernels_are_shown_by_their_snr() -> None:
    record, frame = make_run("pass")
    stages = ("tflite-xnnpack[dynamic_int8]", "tflite-builtin[dynamic_int8]")
    lowest = LowestSnr(tap="block.3.out", input="padded", snr_db=31.0)
    hop = record.hops[0].model_copy(update={"from_": stages[0], "to": stages[1], "lowest_snr": lowest})
    frame = frame[frame["hop"] == FIRST].assign(hop=hop.name)
    frame.loc[(frame["tap"] == lowest.tap) & (frame["input"] == lowest.input), "snr_db"] = lowest.snr_db
    view = tap_view(record.model_copy(update={"hops": [hop]}), frame, hop)
    assert (view.left.shown, view.left.node) == ("snr_db", lowest.tap)
    assert content(view, "left/snr_db")[hop.from_]["results"][lowest.tap]["value"] == lowest.snr_db


def test_the_page_opens_with_two_synced_panes_and_the_shown_overlay_last() -> None:
    view = view_of("nan")
    state = json.loads(view.state)
    assert state["sync"] == {"mode": "match_node_id"}
    assert {model["url"] for model in state["models"]} | set(state["nodeData"]) == set(view.documents)
    bound = list(zip(state["nodeData"], state["nodeDataTargets"], strict=True))
    for side, pane in zip(("left", "right"), state["uiState"]["paneStates"], strict=True):
        label = content(view, f"{side}/graph.json")["label"]
        assert pane["selectedCollectionLabel"] == label
        mine = [name for name, target in bound if target == label]
        assert len(mine) == len(OVERLAYS)
        assert mine[-1] == f"{side}/verdict"


def test_the_page_asks_nobody_else_for_fonts_or_anything() -> None:
    before = (find_web_app() / "index.html").read_text(encoding="utf-8")
    after = adapted(before, legend(OVERLAYS))
    outside = re.compile(r"(?:(?:href|src)=[\"']?|url\([\"']?|@import\s*[\"']?)(?:https?:)?//")
    assert outside.search(before)
    assert not outside.search(after)
    assert after.count("@font-face") == before.count("@font-face") - before.count("url(https://") > 0
    assert not re.search(r"<[^>]*\son[a-z]+=", after)  # the policy runs no script in a tag


@pytest.mark.parametrize("kind", ["fail", "nan"])
def test_every_colour_of_an_overlay_stands_in_the_legend(kind: str) -> None:
    shown = legend(OVERLAYS)
    for name in OVERLAYS:
        (one, *_) = content(view_of(kind), f"right/{name}").values()
        used = {
            entry["bgColor"] for entry in [*one["results"].values(), *one.get("thresholds", [])] if "bgColor" in entry
        }
        assert used
        assert {colour for colour in used if f"background:{colour}" not in shown} == set()
        assert name in shown


def test_the_legend_has_the_partners_of_operators_only_where_there_are_operators() -> None:
    assert "no partner" not in legend(OVERLAYS)
    assert f"background:{ALONE}" in legend([*OVERLAYS, PARTNER])


def test_a_hostile_name_stays_one_line_on_the_terminal() -> None:
    words = view_of("hostile").words
    assert HOSTILE[:20] in words
    assert "\x1b" not in words
    assert "\n" not in words
