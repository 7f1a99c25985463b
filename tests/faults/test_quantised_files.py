"""A quantised file that is not what its recipe says is found by code and layer, and nothing else is.

And where a runtime does something else with a right file, its own hop says so, and not that of the recipe's price.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from marks import further_but
from quantised_files import MODEL, model, quantised, rules_of, stages_of

from harness.audit.vectors import held_vectors, vector_findings
from harness.bench.catalogue import all_faults
from harness.bench.catalogue.quantised import left_out
from harness.bench.mistake import QUANTISED_KINDS, InQuantised
from harness.bench.narrow_weight import QuantisedFile
from harness.bench.quantised import MODES, QuantisedBench
from harness.bench.run import run_fault
from harness.bench.workbench import bench
from harness.commands.progress import PlainProgress
from harness.explain.decoder import Decoder, NotCoveredError
from harness.explain.job import explain_fault
from harness.explain.task import FaultPlace
from harness.flatbuffer.quantise import quantise
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.reads import ReadConstant, read_constants
from harness.names.recipes import Recipe
from harness.pipeline.options import Options
from harness.pipeline.run import run
from harness.record.record import Finding

pytestmark = pytest.mark.slow
INT8, INT4 = "dynamic_int8", "dynamic_int4_block32"
FAULTS = {fault.id: fault for fault in all_faults() if fault.kind in QUANTISED_KINDS}
OWN = tuple(name for name, fault in FAULTS.items() if fault.model == MODEL)
# What the issue lists, and one of each way to make a fault.
SOME = (
    *("quantised-file/scale-1-percent", "quantised-file/scale-of-decode", "quantised-file/scales-swapped"),
    *("quantised-file/zero-point", "quantised-file/blocks-misread", "quantised-file/nibbles"),
    *("quantised-file/axis-lacking", "quantised-file/other-layer", "quantised-file/saturated"),
    *("quantised-file/layer-in-float", "quantised-file/float16-overflow", "quantised-file/scale-of-block"),
    *("quantised-runtime/adds-in-int16", "quantised-runtime/number-weight-only", "quantised-runtime/number-builtin"),
)


def errors(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.code, finding.key) for finding in found]


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_holds_what_its_recipe_says_has_no_finding(mode: str) -> None:
    assert stages_of(mode).audit(quantised(mode), severities=("error", "warning")) == []


def test_a_run_of_sound_recipes_passes_on_every_hop_and_finds_nothing(tmp_path: Path) -> None:
    wanted = Options(model=MODEL, miniature=True, quantize=tuple(map(Recipe, MODES)), out=tmp_path)
    with PlainProgress() as progress:
        _, record = run(wanted, progress)
    assert {stage.status for stage in record.stages} == {"ok"}
    assert {hop.verdict for hop in record.hops} == {"pass"}
    assert len(record.hops) == 3 + 4 * len(MODES)
    assert [finding.what for finding in record.findings if finding.code.startswith("recipe")] == []
    assert [(recipe.name, recipe.rules) for recipe in record.recipes] == [(mode, rules_of(mode)) for mode in MODES]
    assert all(len(recipe.layers) == 12 for recipe in record.recipes)
    for recipe in record.recipes:
        assert recipe.mb is not None
        assert recipe.float32_mb is not None
        assert recipe.mb < recipe.float32_mb


@pytest.mark.parametrize("name", further_but(SOME, OWN))
def test_a_fault_is_found_in_its_hop_at_its_layer_and_charged_to_nobody_else(name: str) -> None:
    result = run_fault(model(), FAULTS[name])
    print(f"fault: {result.what}: {result.hop} at {result.tap}, {result.owner}, {result.diagnosis}")
    assert not result.error
    assert result.detected
    assert result.tap_right, (result.hop, result.tap, result.accused)
    assert result.owner_right, result.owner
    assert not result.expected_causes or result.cause_rank == 1, result.diagnosis


def test_a_file_in_which_nothing_is_broken_counts_as_missed() -> None:
    fault = FAULTS["quantised-file/scale-1-percent"]
    result = run_fault(model(), dataclasses.replace(fault, site=InQuantised(INT8, fault.taps[0], lambda _: None)))
    assert not result.detected
    assert "nothing was broken" in result.error


def test_a_recipe_that_asks_for_blocks_and_gives_channels_is_found_at_every_layer() -> None:
    found = stages_of(INT8).audit(quantised(INT8), rules_of(INT4))
    assert {code for code, _ in errors(found)} == {"recipe-differs"}
    assert "is int8 channelwise, and the recipe asks for int4 blockwise 32" in found[0].what
    assert len(found) == 9, "eight by name, and how many more"


def test_a_layer_that_a_recipe_leaves_in_float_is_no_fault(tmp_path: Path) -> None:
    rules = left_out("EMBEDDING_LOOKUP")(rules_of(INT8))
    file = stages_of(INT8).quantised(rules, tmp_path / "left.tflite")
    assert stages_of(INT8).audit(file, rules) == []
    lacking = stages_of(INT8).audit(file)
    assert errors(lacking) == [("recipe-not-applied", "embed")]
    assert "is float32, and the recipe asks for int" in lacking[0].what


def with_vector(source: Path, target: Path, size: int) -> None:
    """A copy in which a number of the first float vector of that size is a thousandth larger."""
    vectors = [np.squeeze(read.values) for read in read_constants(FlatbufferModel(source))]
    vector = next(values for values in vectors if values.shape == (size,))
    changed = vector.copy()
    changed[3] *= 1.001
    content = source.read_bytes()
    assert content.count(vector.tobytes()) == 1
    target.write_bytes(content.replace(vector.tobytes(), changed.tobytes()))


def test_a_norm_that_is_not_the_float32_files_is_found(tmp_path: Path) -> None:
    """It is in float in both files, so no rule of the recipe is about it."""
    file = tmp_path / "norm.tflite"
    with_vector(quantised(INT8).file, file, 128)  # norms are the only vectors of that length
    found = stages_of(INT8).audit(QuantisedFile(file, quantised(INT8).tapped, quantised(INT8).plan))
    assert [finding.code for finding in found] == ["recipe-float-differs"]
    assert "1 of its 128 numbers" in found[0].what
    assert found[0].owner == "recipe dynamic_int8"


@pytest.mark.parametrize(("name", "sizes"), [("tiny_llama", [128]), ("qwen2_5", [224, 1152])])
@pytest.mark.parametrize("mode", ["fp16", INT8])
def test_biases_and_norms_of_a_file_that_is_given_are_held_against_the_checkpoint(
    name: str, sizes: list[int], mode: str, tmp_path: Path
) -> None:
    """sizes: of norms, and of the one bias that q, k and v share."""
    model, sound, broken = bench(name), tmp_path / "sound.tflite", tmp_path / "broken.tflite"
    quantise(model.flatbuffer, QuantisedBench(model, mode).rules, sound, mode)
    assert vector_findings(FlatbufferModel(sound), model.prepared.parameters, model.checkpoint) == []
    for size in sizes:
        with_vector(sound, broken, size)
        (finding,) = vector_findings(FlatbufferModel(broken), model.prepared.parameters, model.checkpoint)
        assert (finding.code, finding.severity) == ("constant-differs", "error")
        assert "1 of " in finding.what
        held = held_vectors(FlatbufferModel(broken), model.prepared.parameters, model.checkpoint)
        assert list(held) == [finding.parameter]  # what the fake-quantised model computes with
        assert any(np.array_equal(np.squeeze(read.values), held[finding.parameter]) for read in floats_of(broken))


def floats_of(file: Path) -> list[ReadConstant]:
    read = FlatbufferModel(file)
    return [*read_constants(read), *read_constants(read, "FLOAT16")]


@pytest.mark.parametrize("mode", ["fp16", "weight_only_int8", INT8])
def test_a_head_that_was_divided_by_the_softcap_is_taken_for_what_it_is(mode: str) -> None:
    """The converter folds the division of Gemma 2's logits into the head's weight."""
    stages = QuantisedBench(bench("gemma2"), mode)
    outcome = stages.judge()
    assert set(outcome.verdicts.values()) == {"pass"}, {name: hop.reasons for name, hop in outcome.hops.items()}
    assert stages.audit(stages.sound_file) == []


def test_a_hop_of_the_files_own_numbers_is_not_explained_with_the_checkpoints() -> None:
    place = FaultPlace(hop=f"fakequant[{INT8}]->tflite-xnnpack[{INT8}]", tap="block.0.attn.q", input="short", worst=0)
    nothing: Decoder = None  # type: ignore[assignment]  # it is not asked
    with pytest.raises(NotCoveredError, match="those of the file"):
        explain_fault(place, model().prepared, nothing, Path())
