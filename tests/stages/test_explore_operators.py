"""Graphs of operators: which tap an operator belongs to, on both sides of a hop, and what a person sees of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from generative import generative_main
from marks import sweep_but
from record_factory import FAULTY_TAP, make_run
from watching import Watcher

from harness.align.op_graph import INPUTS, OUTSIDE, Op, OpGraph, belonging, bypassed, drawn, made_by
from harness.bench.workbench import bench
from harness.errors import UsageError
from harness.explore.flatbuffer_ops import flatbuffer_ops
from harness.explore.op_files import ALONE, Side, graph_file, node_ids, overlay_files
from harness.explore.operators import OpLevel, OpSide, faults_in, write_op_level
from harness.flatbuffer.reader import FlatbufferModel
from harness.judge.shares import nearest
from harness.names.taps import tap_order
from harness.pipeline import run as pipeline
from harness.pipeline.options import Options
from harness.pipeline.run_models import load_models
from harness.record.record import FaultyOperator, read_record, read_taps
from harness.render.explorer import graph_id, overlays
from harness.render.worst import worst_rows

pytestmark = pytest.mark.slow

WRONG = """
from litert_torch.generative.layers.model_config import ActivationType

from harness import GenerativeModel
from models.tiny_llama import TINY_LLAMA as SOUND

def config():
    own = SOUND.config()
    own.block_config(0).ff_config.activation.type = ActivationType.GELU
    return own

WRONG = GenerativeModel(
    name="wrong_activation", hf_id=SOUND.hf_id, config=config, model_class=SOUND.model_class,
    tensor_names=SOUND.tensor_names, published=SOUND.published,
)
"""
# Tap -> per stage, what kind of operator makes it and a part of where that stands.
PLACES = {
    "embed": {"hf": ("embedding", ""), "reauthored": ("embedding", ""), "tflite-xnnpack": ("reshape", "tok_embedding")},
    "block.1.attn.norm": {
        "hf": ("mul", "LlamaDecoderLayer_1/LlamaRMSNorm_input_layernorm"),
        "reauthored": ("mul", "TransformerBlock_1/RMSNorm_pre_atten_norm"),
        "tflite-xnnpack": ("mul", "TransformerBlock_1/RMSNorm_pre_atten_norm/odml.rms_norm"),
    },
    "block.0.attn.k": {
        "hf": ("linear", "Linear_k_proj"),
        "reauthored": ("linear", "Linear_qkv_projection"),
        "tflite-xnnpack": ("fully_connected", "CausalSelfAttention_atten_func"),
    },
    "block.0.cache.v": {
        "hf": ("linear", "Linear_v_proj"),
        "reauthored": ("dynamic_update_slice", "CausalSelfAttention_atten_func"),
        "tflite-xnnpack": ("dynamic_update_slice", "CausalSelfAttention_atten_func"),
    },
    "block.0.attn.probs": {
        "hf": ("softmax", "LlamaAttention_self_attn"),
        "reauthored": ("scaled_dot_product_attention", "CausalSelfAttention_atten_func"),
        "tflite-xnnpack": ("softmax", "CausalSelfAttention_atten_func/odml.scaled_dot_product_attention"),
    },
    "block.1.residual": {
        "hf": ("add", "LlamaDecoderLayer_1"),
        "reauthored": ("add", "TransformerBlock_1"),
        "tflite-xnnpack": ("add", "TransformerBlock_1"),
    },
    "logits": {"hf": ("linear", "Linear_lm_head"), "reauthored": ("linear", "lm_head"),
               "tflite-xnnpack": ("fully_connected", "")},
}  # fmt: skip


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


def test_what_every_block_reads_stands_in_each_of_them_and_nothing_else_moves() -> None:
    ops = (
        Op("cache", "cache", INPUTS),
        Op("cos", "cos", OUTSIDE),
        Op("q0", "mul", "Block_0/attention", ("cos",)),
        Op("q1", "mul", "Block_1/attention", ("q0", "cos", "cache")),
        Op("k1", "mul", "Block_1/attention", ("q1", "cos")),
        Op("head", "linear", "", ("k1",)),
    )
    made = OpGraph(ops, {"block.0.attn.q": "q0", "block.1.attn.q": "q1", "logits": "head"})
    shown, doubles = drawn(made)
    assert doubles == {"cos for Block_1": "cos"}
    sources = {op.id: op.sources for op in shown}
    assert sources["q0"] == ("cos",)
    assert sources["q1"] == ("q0", "cos for Block_1", "cache")
    assert sources["k1"] == ("q1", "cos for Block_1")
    places = {op.id: op.namespace for op in shown}
    assert places == {op.id: op.namespace for op in ops} | {"cos for Block_1": "Block_1", "cache": "Block_1"}


def test_a_graph_is_the_same_after_it_was_written_down() -> None:
    made = graph({"attn.q": "y"}, x="", y="x")
    assert OpGraph.from_dict(made.as_dict()) == made


TAPS = {
    "block.2.mlp.gate": "w1",
    "block.2.mlp.up": "w3",
    "block.2.mlp.act": "mul",
    "block.2.mlp.out": "w2",
    "block.2.out": "add",
}


def sides(kind: str = "fail") -> tuple[Side, Side]:
    """The MLP of block 7 as two graphs: the right one makes gate and up in one operator, and no `mlp.act`."""
    record, frame = make_run(kind)
    hop = record.hops[0]
    left = graph(TAPS, x="", w1="x", silu="w1", w3="x", mul="silu w3", w2="mul", add="w2")
    right = graph(
        {"block.2.mlp.gate": "w1", "block.2.mlp.up": "w1", "block.2.mlp.out": "w2", "block.2.out": "add"},
        x="", w1="x", act="w1", w2="act", add="w2",
    )  # fmt: skip
    worst = worst_rows(frame, hop.name)
    figures = {name: data[graph_id(hop, hop.to)] for name, data in overlays(hop, worst).items()}
    return (
        Side(record, hop, hop.from_, left, right, worst, figures, {}),
        Side(record, hop, hop.to, right, left, worst, figures, {"w2": "error 9 > 4"}),
    )


def nodes(side: Side) -> dict[str, dict[str, Any]]:
    return {node["id"]: node for node in graph_file(side)["graphs"][0]["nodes"]}


def attributes(node: dict[str, Any]) -> dict[str, str]:
    return {entry["key"]: entry["value"] for entry in node["attrs"]}


def test_the_files_fit_the_dataclasses_of_model_explorer() -> None:
    dacite = pytest.importorskip("dacite")
    builder = pytest.importorskip("model_explorer.graph_builder")
    for side in sides("hostile"):
        text = json.dumps(graph_file(side), allow_nan=False)
        dacite.from_dict(builder.GraphCollection, json.loads(text), config=dacite.Config(strict=True))


def test_a_tap_that_only_one_side_has_is_shown_as_such() -> None:
    left, right = sides()
    assert attributes(nodes(left)["block.2.mlp.act"])["partner"].startswith("none: no operator of the other side")
    assert attributes(nodes(left)["block.2.mlp.out"])["partner"] == "w2 (w2)"
    results = overlay_files(left)["partner"][left.graph_id]["results"]
    assert results["block.2.mlp.act"] == {"value": "no partner", "bgColor": ALONE}
    assert {results[tap]["value"] for tap in TAPS if tap != "block.2.mlp.act"} == {"compared"}
    assert "no partner" not in {
        entry["value"] for entry in overlay_files(right)["partner"][right.graph_id]["results"].values()
    }


def test_an_operator_has_the_colour_of_the_tap_that_it_makes_or_feeds() -> None:
    left, _ = sides()
    files = overlay_files(left)
    verdicts = {node: result["value"] for node, result in files["verdict"][left.graph_id]["results"].items()}
    excess = {node: result["value"] for node, result in files["excess"][left.graph_id]["results"].items()}
    assert verdicts["block.2.mlp.act"] == verdicts["hf silu"] == "pass"
    assert verdicts[FAULTY_TAP] == "fail"
    assert excess["hf silu"] == excess["block.2.mlp.act"] < excess[FAULTY_TAP]


def test_an_operator_that_makes_several_taps_has_the_colour_of_the_worst() -> None:
    _, right = sides()
    worst = max(("block.2.mlp.gate", "block.2.mlp.up"), key=lambda tap: nearest(right.worst[tap].row).share)
    shown = overlay_files(right)["limit_used"][right.graph_id]["results"]["block.2.mlp.gate"]["value"]
    assert shown == pytest.approx(nearest(right.worst[worst].row).share, rel=1e-3)
    assert attributes(nodes(right)["block.2.mlp.gate"])["tap"] == "block.2.mlp.gate, block.2.mlp.up"


def test_an_operator_at_fault_says_so() -> None:
    left, right = sides()
    node = nodes(right)[FAULTY_TAP]
    assert node["label"] == "w2 = mlp.out (at fault)"
    assert attributes(node)["at fault"] == "error 9 > 4"
    assert "at fault" not in json.dumps(graph_file(left))


def test_the_operator_that_a_run_names_is_at_fault_and_else_the_one_that_makes_the_tap() -> None:
    record, _ = make_run("fail")
    fault = record.first_fault
    made = OpGraph(graph({FAULTY_TAP: "w2"}, x="", turn="x", w2="turn").ops, {FAULTY_TAP: "w2"}, {"3/4": "turn"})
    named = FaultyOperator(
        whose="converter", op="RESHAPE", index=4, subgraph=3, tensor="t", why="it should transpose", error=1.0
    )
    known = record.model_copy(update={"faults": [fault.model_copy(update={"operator": named})]})
    assert faults_in(made, known, record.hops[0]) == {"turn": "it should transpose"}
    assert faults_in(made, record, record.hops[0]) == {"w2": fault.reason}
    assert faults_in(made, known, record.hops[1]) == {}, "a fault of another hop"


def test_a_run_of_an_earlier_version_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not say how to get at its models again; run the model again"):
        load_models(tmp_path)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a TinyLlama with GELU in place of SiLU, through its flatbuffer."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "wrong.py").write_text(WRONG)
    stages = ("oracle", "hf", "reauthored", "tflite-xnnpack")
    options = Options(model=str(folder / "wrong.py"), miniature=True, stages=stages, out=folder / "runs")
    return pipeline.run(options, Watcher())[0]


def level(run: Path, hop: str) -> tuple[OpLevel, Watcher]:
    record, watcher = read_record(run), Watcher()
    return write_op_level(run, record, read_taps(run), record.hop(hop), run / "explorer", watcher), watcher


def read(side: OpSide) -> dict[str, dict[str, Any]]:
    (made,) = json.loads(side.graph.read_text())["graphs"]
    assert made["id"] == side.graph_id
    return {node["id"]: node for node in made["nodes"]}


def test_the_operator_that_makes_a_tap_is_marked_with_it_in_all_three_versions(broken: Path) -> None:
    torch, _ = level(broken, "hf->reauthored")
    device, again = level(broken, "reauthored->tflite-xnnpack")
    assert again.ends == ["operators of tflite-xnnpack"], "the re-authored model's are made once per run"
    found = {"hf": torch.sides["from"], "reauthored": torch.sides["to"], "tflite-xnnpack": device.sides["to"]}
    for stage, side in found.items():
        made = read(side)
        tapped = {tap for node in made.values() for tap in attributes(node).get("tap", "").split(", ")}
        assert set(tap_order(2)) <= tapped, stage
        for tap, places in PLACES.items():
            node = next(node for node in made.values() if tap in attributes(node).get("tap", "").split(", "))
            label, group = places[stage]
            assert node["label"].split(" = ")[0] == label, (stage, tap)
            assert group in node["namespace"], (stage, tap)
        assert all(edge["sourceNodeId"] in made for node in made.values() for edge in node["incomingEdges"])
    assert len({side.graph_id for view in (torch, device) for side in view.sides.values()}) == 4


def test_the_first_fault_leads_to_the_operator_that_makes_it(broken: Path) -> None:
    made, _ = level(broken, "hf->reauthored")
    for side in made.sides.values():
        assert side.node == "block.0.mlp.act"
        assert read(side)[side.node]["namespace"] == side.namespace
        verdicts = json.loads(side.overlays["verdict"].read_text())[side.graph_id]["results"]
        assert verdicts[side.node]["value"] == "fail"
        assert verdicts["block.0.mlp.gate"]["value"] == "pass"
    activations = {stage: next(node for node in read(made.sides[stage]).values() if node["label"] == kind)
                   for stage, kind in (("from", "silu"), ("to", "gelu"))}  # fmt: skip
    assert {attributes(node)["tap"] for node in activations.values()} == {"feeds block.0.mlp.act"}


def test_a_flatbuffer_that_is_gone_is_told_with_what_to_do(broken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(broken, run, ignore=shutil.ignore_patterns("operators"))
    models = load_models(run)
    models.flatbuffers = dict.fromkeys(models.flatbuffers, str(tmp_path / "gone.tflite"))
    (run / "explorer" / "models.json").write_text(models.model_dump_json())
    with pytest.raises(
        UsageError, match=r"gone\.tflite, the flatbuffer of tflite-xnnpack, is gone; run the model again"
    ):
        level(run, "reauthored->tflite-xnnpack")


@pytest.mark.parametrize("name", sweep_but(["tiny_llama"], sorted(generative_main())))
def test_every_tap_has_its_operator_in_every_model(name: str) -> None:
    from harness.stages.huggingface.operators import hf_ops
    from harness.stages.litert_torch.operators import reauthored_ops

    made = bench(name)
    prepared, length = made.prepared, made.prepared.prefill[-1]
    torch = [build(made.model, prepared, length) for build in (hf_ops, reauthored_ops)]
    for found in (*torch, flatbuffer_ops(FlatbufferModel(made.flatbuffer), f"prefill_{length}", prepared)):
        assert list(found.taps) == prepared.taps
        known = {op.id for op in found.ops}
        assert len(known) == len(found.ops)
        assert all(source in known for op in found.ops for source in op.sources)
