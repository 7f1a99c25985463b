"""TensorFlow's modes as recipes of a Keras model: what each costs, and that runtimes compute it right."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness
from harness.align.plan import AlignmentPlan
from harness.align.weights import file_weights
from harness.bench.workbench import FEW, Bench
from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel
from harness.names.codes import FindingCode
from harness.names.recipes import TF_DYNAMIC_RANGE, TF_INT16_ACTIVATIONS
from harness.pipeline.flatbuffers import write_tapped_and_plan

pytestmark = pytest.mark.extras("keras")
RECIPES = "tf_dynamic_range", "tf_float16", "tf_full_integer"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> harness.Run:
    return harness.run("gpt2", quantize=list(RECIPES), out=tmp_path_factory.mktemp("runs"))


def hops(run: harness.Run, recipe: str) -> dict[str, str]:
    return {hop.name: hop.verdict for hop in run.record.hops if f"[{recipe}]" in hop.name}


@pytest.mark.parametrize("recipe", RECIPES[:2])
def test_the_price_and_both_runtimes_are_judged_and_pass(run: harness.Run, recipe: str) -> None:
    fakes, kernels = ("fakequant", "fakequant-builtin"), ("tflite-xnnpack", "tflite-builtin")
    wanted = {f"keras->{fake}[{recipe}]" for fake in fakes}
    wanted |= {f"{fake}[{recipe}]->{kernel}[{recipe}]" for fake, kernel in zip(fakes, kernels, strict=True)}
    assert hops(run, recipe) == dict.fromkeys(wanted, "pass")


def test_of_fixed_ranges_the_weights_alone_are_judged_and_the_run_does_not_pass(run: harness.Run) -> None:
    assert hops(run, "tf_full_integer") == {"keras->fakequant[tf_full_integer]": "pass"}
    said = [one for one in run.record.findings if one.code == FindingCode.RUNTIME_NOT_JUDGED]
    assert [one.severity for one in said] == ["error"]
    assert "by tf_full_integer" in said[0].what
    assert run.verdict == "fail"


def test_nothing_is_said_of_files_that_are_what_their_modes_ask_for(run: harness.Run) -> None:
    """But of the table of positions, of which the converter keeps the rows that it has seen."""
    errors = {one.what for one in run.record.findings if one.severity == "error"}
    assert {one.split(":")[0][:50] for one in errors} <= {
        "the file by tf_full_integer has activations that a",
        "constant position_embedding_1/Slice/ReadVariableOp",
    }, errors


def test_every_layer_has_the_grid_of_its_mode(run: harness.Run) -> None:
    grids = {one.name: {layer.grid for layer in one.layers} for one in run.record.recipes}
    assert grids["tf_dynamic_range"] == {"int8 channelwise", "int8 tensorwise"}
    assert grids["tf_float16"] == {"float16"}


@pytest.fixture(scope="module")
def gpt2() -> Bench:
    return Bench("gpt2", inputs=FEW)


def converted(gpt2: Bench, mode: str, file: Path) -> Path:
    own, prepared = gpt2.own(), gpt2.prepared
    network = own.load(gpt2.checkpoint, prepared.kv_cache_len)
    own.write_quantised(network, file, prepared.prefill, prepared.kv_cache_len, mode, prepared.inputs)
    return file


def test_what_the_converter_refuses_is_one_line(gpt2: Bench, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"--quantize tf_int16_activations: TensorFlow's converter refuses it for gpt2"
    ):
        converted(gpt2, TF_INT16_ACTIVATIONS, tmp_path / "model.tflite")


def test_a_file_that_a_person_gives_is_judged_and_a_row_of_it_that_is_wrong_is_found(
    gpt2: Bench, tmp_path: Path
) -> None:
    file = converted(gpt2, TF_DYNAMIC_RANGE, tmp_path / "model.tflite")
    (tmp_path / "plan").mkdir()
    write_tapped_and_plan(file, tmp_path / "plan", gpt2.prepared)
    plans, model = AlignmentPlan.read(tmp_path / "plan" / "plan.json").sources, FlatbufferModel(file)
    graph, down = next((graph, one) for graph, one in file_weights(model, plans) if one.layer == "block.1.mlp.out")
    held = bytes(model.buffer(graph.tensors[down.constant].buffer))
    content = file.read_bytes()
    assert content.count(held) == 1
    file.write_bytes(content.replace(held, held[:512][::-1] + held[512:]))  # the first row, turned round
    run = harness.run("gpt2", tflite=file, stages=["keras", "tflite-xnnpack"], out=tmp_path / "runs")
    wrong = [one for one in run.record.findings if one.code == FindingCode.RECIPE_WEIGHT_WRONG]
    assert {one.key for one in wrong} == {"block.1.mlp.out"}
    verdicts = {hop.name: hop.verdict for hop in run.record.hops}
    assert verdicts["fakequant[file]->tflite-xnnpack[file]"] == "pass"  # it computes what the file holds
    assert run.verdict == "fail"
