"""What the Model Explorer files promise: they open, both panes share node ids, nothing missing has a value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from record_factory import BLOCKS, FAULTY_TAP, NAN_TAP, make_run

from harness.names.taps import BLOCK_POINTS, block_tap, tap_order
from harness.render.explorer import OVERLAYS, dataflow, file_stem, graph_id, node_data, overlays, write_explorer
from harness.render.worst import worst_rows

WRITTEN = ("fail", "hostile", "nan")


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} does not open in Model Explorer")


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Any]]]:
    target = tmp_path_factory.mktemp("runs")
    found = {}
    for kind in WRITTEN:
        (target / kind).mkdir()
        run = make_run(kind, 3) if kind == "hostile" else make_run(kind)
        found[kind] = {path.name: load(path) for path in write_explorer(target / kind, *run)}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hostile", "nan"])
def test_the_files_fit_the_dataclasses_of_model_explorer(folders: dict[str, Any], kind: str) -> None:
    dacite = pytest.importorskip("dacite")
    graph_builder = pytest.importorskip("model_explorer.graph_builder")
    node_data_builder = pytest.importorskip("model_explorer.node_data_builder")
    strict = dacite.Config(strict=True)
    for name, content in folders[kind].items():
        if name.endswith(".graph.json"):
            for graph in content["graphs"]:  # one block stands for all: the check is slow
                some = {**graph, "nodes": graph["nodes"][:20]}
                dacite.from_dict(graph_builder.GraphCollection, {**content, "graphs": [some]}, config=strict)
            continue
        for overlay in content.values():
            overlay = {**overlay, "results": dict(list(overlay["results"].items())[:20])}
            words = {tap: result for tap, result in overlay["results"].items() if isinstance(result["value"], str)}
            assert not words or name.endswith((".verdict.json", ".snr_db.json"))
            # Words work in the viewer, though its dataclass says numbers.
            overlay["results"] |= {tap: {**result, "value": 0} for tap, result in words.items()}
            dacite.from_dict(node_data_builder.GraphNodeData, overlay, config=strict)


def test_both_sides_have_the_same_nodes_and_ids_are_unique_over_all_files(folders: dict[str, Any]) -> None:
    graphs = [content for name, content in folders["fail"].items() if name.endswith(".graph.json")]
    for content in graphs:
        (graph,) = content["graphs"]
        assert graph["id"] == content["label"]
        assert [node["id"] for node in graph["nodes"]] == tap_order(BLOCKS)
    ids = {content["label"] for content in graphs}
    assert len(ids) == len(graphs) == 6
    assert "hf->reauthored/hf" in ids


def test_every_hop_has_two_graphs_and_each_overlay_and_overlays_name_its_graphs(folders: dict[str, Any]) -> None:
    record, _ = make_run("fail")
    for hop in record.hops:
        for overlay in OVERLAYS:
            content = folders["fail"][f"{file_stem(hop)}.{overlay}.json"]
            assert set(content) == {graph_id(hop, hop.from_), graph_id(hop, hop.to)}
    assert len(folders["fail"]) == 3 * (2 + len(OVERLAYS))


def test_a_node_stands_in_its_block_with_its_module_and_numbers(folders: dict[str, Any]) -> None:
    for side, module in (("from", "model.layers.2.mlp.out"), ("to", "transformer_blocks.2.mlp.out")):
        (graph,) = folders["fail"][f"hf-to-reauthored.{side}.graph.json"]["graphs"]
        node = next(node for node in graph["nodes"] if node["id"] == FAULTY_TAP)
        attributes = {pair["key"]: pair["value"] for pair in node["attrs"]}
        assert node["namespace"] == "block_2/mlp"
        assert attributes["module"] == module
        assert attributes["verdict"] == "fail"


def test_the_overlay_shows_the_worst_input() -> None:
    record, frame = make_run("fail")
    worst = frame[(frame["hop"] == "hf->reauthored") & (frame["tap"] == FAULTY_TAP)]["excess"].max()
    rows = frame[(frame["hop"] == "hf->reauthored") & (frame["excess"] == worst)]
    data = node_data(record.hops[0], worst_rows(rows, "hf->reauthored"), "excess")
    assert data["hf->reauthored/hf"]["results"][FAULTY_TAP]["value"] == pytest.approx(worst, rel=1e-3)


def test_the_overlay_shows_the_input_that_uses_up_most_of_its_limit_and_not_the_largest_figure(tmp_path: Path) -> None:
    record, frame = make_run("pass", 4)
    frame, tap = frame.copy(), "block.2.attn.q"
    mine = (frame["hop"] == "hf->reauthored") & (frame["tap"] == tap)
    frame.loc[mine & (frame["input"] == "one-token"), ["excess", "position_excess"]] = 6.0
    frame.loc[mine & (frame["input"] == "long"), "excess"] = 3.2
    write_explorer(tmp_path, record, frame)
    shown = {
        overlay: load(tmp_path / "explorer" / f"hf-to-reauthored.{overlay}.json")["hf->reauthored/hf"]["results"][tap]
        for overlay in ("excess", "limit_used")
    }
    assert {overlay: result["value"] for overlay, result in shown.items()} == {"excess": 3.2, "limit_used": 0.8}


def test_an_excess_is_coloured_by_its_own_limit() -> None:
    """Short inputs have limits of 16: there an excess of 12 is within them, and elsewhere far past."""
    record, frame = make_run("pass", 4)
    rows = frame[(frame["hop"] == "hf->reauthored") & frame["tap"].isin(["block.2.attn.q", "block.2.attn.k"])]
    rows = rows[rows["input"] == "long"].assign(excess=12.0)
    rows["excess_limit"] = [16.0 if tap.endswith("q") else 4.0 for tap in rows["tap"]]
    worst = worst_rows(rows, "hf->reauthored")
    results = node_data(record.hops[0], worst, "excess")["hf->reauthored/hf"]["results"]
    at_half = node_data(record.hops[0], worst, "limit_used")["hf->reauthored/hf"]["thresholds"]
    colours = {each["value"]: each["bgColor"] for each in at_half}
    assert results["block.2.attn.q"] == {"value": 12.0, "bgColor": colours[1]}
    assert results["block.2.attn.k"] == {"value": 12.0, "bgColor": colours[10]}


def test_local_excess_is_shown_of_the_input_where_most_of_its_limit_is_used() -> None:
    """Only some inputs are judged locally, and the tap may come nearer to another limit on one that is not."""
    record, frame = make_run("pass", 4)
    frame, tap = frame[frame["hop"] == "hf->reauthored"].copy(), "block.2.attn.q"
    for given, value, limit in (("padded", 3.0, 4.0), ("one-token", 6.0, 16.0)):
        frame.loc[(frame["tap"] == tap) & (frame["input"] == given), ["local_excess", "local_excess_limit"]] = (
            value,
            limit,
        )
    shown = overlays(record.hops[0], worst_rows(frame, "hf->reauthored"))["local_excess"]["hf->reauthored/hf"][
        "results"
    ]
    assert set(shown) == {tap}
    assert shown[tap]["value"] == 3.0


def test_snr_is_in_the_overlay_and_a_tap_without_noise_says_so_in_words() -> None:
    record, frame = make_run("pass", 4)
    frame = frame[frame["hop"] == "hf->reauthored"]
    shown = overlays(record.hops[0], worst_rows(frame, "hf->reauthored"))["snr_db"]["hf->reauthored/hf"]["results"]
    assert shown["embed"]["value"] == "no noise"
    assert 100 < shown["block.3.out"]["value"] < 200


def test_a_missing_tap_has_no_shape_instead_of_nan(tmp_path: Path) -> None:
    record, frame = make_run("pass", 4)
    write_explorer(tmp_path, record, frame)
    (graph,) = load(tmp_path / "explorer" / "reauthored-to-tflite-xnnpack.to.graph.json")["graphs"]
    node = next(node for node in graph["nodes"] if node["id"] == "block.3.attn.probs")
    assert "outputsMetadata" not in node


def test_a_missing_tap_has_no_number_and_says_missing(folders: dict[str, Any]) -> None:
    tap = "block.3.attn.probs"
    side = "reauthored->tflite-xnnpack/tflite-xnnpack"
    for overlay in ("excess", "rel_l2"):
        assert tap not in folders["fail"][f"reauthored-to-tflite-xnnpack.{overlay}.json"][side]["results"]
    verdicts = folders["fail"]["reauthored-to-tflite-xnnpack.verdict.json"][side]["results"]
    assert verdicts[tap]["value"] == "missing"


def test_nan_is_named_in_the_verdict_and_has_no_number(folders: dict[str, Any]) -> None:
    side = "reauthored->tflite-builtin/tflite-builtin"
    assert NAN_TAP not in folders["nan"]["reauthored-to-tflite-builtin.excess.json"][side]["results"]
    verdicts = folders["nan"]["reauthored-to-tflite-builtin.verdict.json"][side]["results"]
    assert verdicts[NAN_TAP]["value"] == "fail, not finite"


def test_edges_follow_the_dataflow_of_a_block() -> None:
    edges = dataflow(tap_order(2))
    assert edges["block.0.attn.norm"] == ["embed"]
    assert edges["block.1.attn.norm"] == ["block.0.out"]
    assert edges["block.1.residual"] == ["block.1.attn.out", "block.0.out"]
    assert edges["block.1.attn.probs"] == ["block.1.attn.q_rope", "block.1.cache.k"]
    assert edges["block.1.out"] == ["block.1.mlp.out", "block.1.residual"]
    assert edges["final_norm"] == ["block.1.out"]
    assert edges["logits"] == ["final_norm"]


@pytest.mark.parametrize("point", BLOCK_POINTS)
def test_a_point_that_a_model_lacks_leaves_no_dangling_edge_and_no_island(point: str) -> None:
    edges = dataflow(tap_order(3, [other for other in BLOCK_POINTS if other != point]))
    for tap, sources in edges.items():
        assert set(sources) <= set(edges)
        assert sources or tap == "embed"
        assert tap not in sources
    assert block_tap(1, point) not in edges
