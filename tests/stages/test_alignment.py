"""Every tap is read where it is, the tapped copy is the file that ships, and what is not found is missing."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marks import further_but

from harness.align.layout import (
    HeadLayout,
    canonical_cache,
    join_gate,
    join_heads,
    layout_cache,
    split_gate,
    split_heads,
)
from harness.bench.breaking import jiggled
from harness.bench.reseed import patch
from harness.bench.workbench import BUILTIN, FILE_STAGES, FIRST, XNNPACK, Bench, bench
from harness.flatbuffer.reader import FlatbufferModel
from harness.names.variant import Variant
from harness.pipeline.flatbuffers import write_tapped_and_plan
from harness.stages.litert.stage import TAP_PREFIX

pytestmark = pytest.mark.slow

SIGNATURES = {"prefill_32", "decode"}


@pytest.fixture(scope="module", params=["tiny_llama", "smollm2"])
def model(request: pytest.FixtureRequest) -> Bench:
    return bench(request.param)


# What the attention of such a graph is made of: one composite, or plain operators on either layout.
VARIANTS = ("default", "no-hlfb", "kv=transposed", "no-hlfb,kv=transposed", "mask-as-input")


@pytest.mark.parametrize("variant", further_but(["default"], VARIANTS[:3], VARIANTS))
def test_every_variant_of_a_model_without_a_fault_passes_at_every_tap(variant: str) -> None:
    llama = bench("tiny_llama", variant=variant)
    assert llama.prepared.variant.name == variant
    for signature, missing in plan_of(llama)["missing"].items():
        assert missing == {}, signature
    assert set(llama.unbroken.verdicts.values()) == {"pass"}
    assert llama.unbroken.hops[BUILTIN].coverage == 1.0
    composite = variant in ("default", "mask-as-input")
    assert llama.unbroken.hops[XNNPACK].taps_missing == (2 if composite else 0), "the probabilities of two blocks"


def test_a_transposed_cache_read_as_a_default_one_fails_the_hop(tmp_path: Path) -> None:
    """The cache taps are canonical because they are turned, not because the shapes happen to fit."""
    llama = bench("tiny_llama", variant="kv=transposed")
    assert llama.tapped, "tapped as what it is, before it is misread"
    misread = copy.copy(llama)
    misread.prepared = llama.prepared.model_copy(update={"variant": Variant()})
    with pytest.raises(ValueError, match="does not continue"):
        misread.trace("tflite-builtin", tmp_path)


def plan_of(bench: Bench) -> dict[str, Any]:
    return json.loads(bench.tapped[1].read_text())


def test_every_tap_is_found_in_every_signature(model: Bench) -> None:
    plan = plan_of(model)
    assert set(plan["sources"]) == SIGNATURES
    for signature in SIGNATURES:
        assert list(plan["sources"][signature]) == model.prepared.taps
        assert plan["missing"][signature] == {}


def test_no_two_taps_are_the_same_tensor_unless_they_are_parts_or_views_of_it(model: Bench) -> None:
    for sources in plan_of(model)["sources"].values():
        seen: dict[tuple[int, int, str], str] = {}
        for tap, source in sources.items():
            place = (source["subgraph"], source["tensor"], source["view"])
            # The probabilities lie in a composite's subgraph, which blocks may share.
            if not source["inner"]:
                assert place not in seen, f"{tap} and {seen.get(place)}"
            seen[place] = tap


# --- heads in a fused projection -----------------------------------------------------------------------------------


def by_loop(qkv: np.ndarray[Any, Any], part: str, layout: HeadLayout) -> np.ndarray[Any, Any]:
    """The heads of `part`, one after the other, each looked up by where the layout says it begins."""
    queries = layout.heads // layout.kv_heads
    found = []
    for head in range(layout.heads if part == "q" else layout.kv_heads):
        if layout.interleaved:
            group, within = divmod(head, queries) if part == "q" else (head, queries + "kv".index(part))
            slot = group * (queries + 2) + within
        else:
            slot = {"q": 0, "k": layout.heads, "v": layout.heads + layout.kv_heads}[part] + head
        found.append(qkv[0, :, slot * layout.head_dim : (slot + 1) * layout.head_dim])
    return np.stack(found, axis=1)[None]


@given(
    kv_heads=st.integers(1, 5),
    queries=st.integers(1, 5),
    head_dim=st.integers(1, 6),
    time=st.integers(1, 4),
    interleaved=st.booleans(),
)
def test_q_k_and_v_are_taken_from_where_the_layout_says_they_are(
    kv_heads: int, queries: int, head_dim: int, time: int, interleaved: bool
) -> None:
    layout = HeadLayout(kv_heads * queries, kv_heads, head_dim, interleaved)
    width = (layout.heads + 2 * kv_heads) * head_dim
    qkv = np.arange(time * width, dtype=np.float32).reshape(1, time, width)
    parts = [split_heads(qkv, part, layout) for part in "qkv"]
    for part, values in zip("qkv", parts, strict=True):
        assert np.array_equal(values, by_loop(qkv, part, layout))
    assert sum(values.size for values in parts) == qkv.size
    named = dict(zip("qkv", parts, strict=True))
    assert np.array_equal(join_heads(named, layout), qkv)
    tensors = {part: torch.from_numpy(values.copy()) for part, values in named.items()}
    assert torch.equal(join_heads(tensors, layout), torch.from_numpy(qkv))


def test_gate_and_up_are_joined_as_they_are_split() -> None:
    fused = np.arange(24.0).reshape(1, 3, 8)
    assert np.array_equal(join_gate({part: split_gate(fused, part) for part in ("gate", "up")}), fused)


@pytest.mark.parametrize("part", ["k", "v"])
@pytest.mark.parametrize("kv_layout", ["default", "transposed"])
def test_a_cache_is_laid_out_as_it_is_read(part: str, kv_layout: str) -> None:
    rows = np.arange(2 * 3 * 5.0).reshape(1, 5, 2, 3)
    laid = layout_cache(rows, part, kv_layout)
    shapes = {"default": (1, 5, 2, 3), "transposed": (1, 2, 5, 3) if part == "k" else (1, 2, 3, 5)}
    assert laid.shape == shapes[kv_layout]
    assert np.array_equal(canonical_cache(laid, part, kv_layout), rows)


def test_the_two_layouts_differ_as_soon_as_there_are_two_groups() -> None:
    qkv = np.arange(8 * 3, dtype=np.float32).reshape(1, 1, 24)
    one, other = (split_heads(qkv, "q", HeadLayout(4, 2, 3, interleaved)) for interleaved in (True, False))
    assert not np.array_equal(one, other)


def test_heads_read_in_the_wrong_layout_fail_the_hop(tmp_path: Path) -> None:
    """An alignment that takes heads from the wrong place is seen as a fault; it cannot pass."""
    llama = bench("tiny_llama")
    dimensions = llama.prepared.dimensions
    misread = copy.copy(llama)
    misread.prepared = llama.prepared.model_copy(
        update={"dimensions": dimensions.model_copy(update={"interleaved": not dimensions.interleaved})}
    )
    misread.trace("reauthored", tmp_path)
    outcome = llama.judge(tmp_path)
    assert outcome.fault is not None
    assert (outcome.fault.hop, outcome.fault.tap) == (FIRST, "block.0.attn.q")


# --- the tapped copy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", FILE_STAGES)
def test_the_tapped_copy_gives_the_untouched_files_own_outputs_bit_for_bit(
    model: Bench, stage: str, tmp_path: Path
) -> None:
    facts = model.trace(stage, tmp_path).as_dict()
    assert facts["steps"] > len(model.prepared.inputs)
    assert facts["steps_differing_from_untouched_file"] == []


@pytest.mark.parametrize("stage", FILE_STAGES)
def test_a_tapped_copy_of_another_file_is_found_out_at_every_step_that_is_checked(stage: str, tmp_path: Path) -> None:
    llama = bench("tiny_llama")
    file = copy_of(llama, tmp_path / "other.tflite")
    values = llama.constant("model.layers.0.mlp.down_proj.weight")
    patch(file, values, jiggled_array(values))
    tapped = llama.tap(file)
    facts = llama.trace(stage, tmp_path, tapped=tapped).as_dict()
    checked = facts["steps_checked_against_untouched_file"]
    assert len(facts["steps_differing_from_untouched_file"]) == checked
    if stage == "tflite-xnnpack":
        assert checked == facts["steps"]
    else:  # every signature, once at least
        named = " ".join(facts["steps_differing_from_untouched_file"])
        assert "prefill_32" in named
        assert "decode" in named


def copy_of(model: Bench, target: Path) -> Path:
    target.write_bytes(model.flatbuffer.read_bytes())
    return target


def jiggled_array(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return jiggled(torch.tensor(values)).numpy()


def tables(path: Path) -> dict[str, Any]:
    """All that a flatbuffer holds, as plain data: options of operators and contents of buffers too."""
    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    plain: dict[str, Any] = as_plain(schema.ModelT.InitFromPackedBuf(content, 0))
    for buffer in plain["buffers"]:
        start, size = buffer.pop("offset"), buffer.pop("size")
        if start > 1:  # the buffer lies after the tables
            buffer["data"] = content[start : start + size]
    return plain


def as_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.dtype == np.uint8 else value.tolist()
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return {name: as_plain(item) for name, item in vars(value).items()} if hasattr(value, "__dict__") else value


def without_outputs(plain: dict[str, Any]) -> dict[str, Any]:
    for graph in plain["subgraphs"]:
        graph["outputs"] = None
    for signature in plain["signatureDefs"]:
        signature["outputs"] = None
    return plain


def test_the_tapped_copy_keeps_every_tensor_operator_and_weight_and_only_adds_outputs(model: Bench) -> None:
    untouched, tapped = tables(model.flatbuffer), tables(model.tapped[0])
    for before, after in zip(untouched["signatureDefs"], tapped["signatureDefs"], strict=True):
        own, added = after["outputs"][: len(before["outputs"])], after["outputs"][len(before["outputs"]) :]
        assert own == before["outputs"]
        assert added
        assert all(entry["name"].startswith(TAP_PREFIX.encode()) for entry in added)
    for before, after in zip(untouched["subgraphs"], tapped["subgraphs"], strict=True):
        assert after["outputs"][: len(before["outputs"])] == before["outputs"]
    assert without_outputs(untouched) == without_outputs(tapped)


def test_a_weight_that_changed_on_the_way_would_be_noticed(tmp_path: Path) -> None:
    llama = bench("tiny_llama")
    file = copy_of(llama, tmp_path / "other.tflite")
    values = llama.constant("model.norm.weight")
    patch(file, values, jiggled_array(values))
    assert without_outputs(tables(llama.flatbuffer)) != without_outputs(tables(file))


# --- a file whose tensors have no names ----------------------------------------------------------------------------


def strip_names(source: Path, target: Path) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(source.read_bytes(), 0)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.name = "t"
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    target.write_bytes(bytes(builder.Output()))


def test_without_tensor_names_taps_are_missing_with_a_reason_and_none_is_taken_for_another(tmp_path: Path) -> None:
    llama = bench("tiny_llama")
    stripped = tmp_path / "stripped.tflite"
    strip_names(llama.flatbuffer, stripped)
    assert {tensor.name for tensor in FlatbufferModel(stripped).subgraph(0).tensors} == {"t"}
    folder = tmp_path / "tapped"
    folder.mkdir()
    write_tapped_and_plan(stripped, folder, llama.prepared)
    found, named = json.loads((folder / "plan.json").read_text()), plan_of(llama)
    for signature in SIGNATURES:
        sources, missing = found["sources"][signature], found["missing"][signature]
        assert set(sources) | set(missing) == set(llama.prepared.taps)
        assert not set(sources) & set(missing)
        assert "block.0.attn.q" in missing
        assert all(missing.values())
        for tap, source in sources.items():  # what needs no name, such as the KV cache, is still right
            same = named["sources"][signature][tap]
            assert {**source, "name": ""} == {**same, "name": ""}, tap


def test_a_file_without_tensor_names_cannot_pass(tmp_path: Path) -> None:
    llama = bench("tiny_llama")
    outcome = llama.with_flatbuffer(lambda file: strip_names(llama.flatbuffer, file), retap=True)
    assert outcome.verdicts == {FIRST: "pass", XNNPACK: "fail", BUILTIN: "fail"}
    for hop in (XNNPACK, BUILTIN):
        assert outcome.hops[hop].coverage < 0.9
        assert outcome.hops[hop].first_failing_tap is None, "no tap was compared with another one"
