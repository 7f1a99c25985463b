"""At full width the noise floor is higher, and a weight off by 1e-5 stays visible all the same.

`python -m pytest tests/faults/test_sees_faults_full_width.py -s -q | grep fault:` shows the figures.
"""

from __future__ import annotations

import pytest
import torch
from outcomes import assert_first_fault
from places import DOWN, MODULES, jiggle
from wide import wide_spec

from harness.bench.breaking import jiggled
from harness.bench.reseed import patch
from harness.bench.workbench import FEW, FIRST, XNNPACK, Bench

pytestmark = [pytest.mark.slow, pytest.mark.further]

SMALL = 1e-5
NORM = "model.layers.1.post_attention_layernorm.weight"
PLACES = {DOWN.format(1): "block.1.mlp.out", "qkv.1": "block.1.attn.q", NORM: "block.1.mlp.norm"}


@pytest.fixture(scope="module")
def trained() -> Bench:
    """The first two layers of SmolLM2: 576 wide, an MLP of 1,536."""
    return Bench("smollm2", real=True, layers=2, inputs=FEW, device_local=True)


@pytest.fixture(scope="module", params=["tiny_llama", "gemma1"])
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """2,048 wide, an MLP of 5,632 and one of 16,384."""
    spec = wide_spec(request.param, tmp_path_factory.mktemp("wide"))
    variant = "kv=transposed" if request.param == "gemma1" else "default"
    return Bench(spec, inputs=FEW, layers=2, device_local=True, variant=variant)


def assert_seen_in_the_flatbuffer(bench: Bench, weight: str) -> None:
    values = bench.constant(weight)
    change = jiggled(torch.tensor(values), SMALL).numpy()
    outcome = bench.with_flatbuffer(lambda file: patch(file, values, change), stages=("tflite-xnnpack",))
    assert_first_fault(
        f"{bench.model.name} at full width, {weight} of the file by 1e-5", outcome, XNNPACK, PLACES[weight]
    )
    assert outcome.fault is not None
    print(f"fault: local_excess {outcome.fault.local_excess}")


@pytest.mark.parametrize("weight", PLACES)
def test_a_matrix_of_a_trained_file_that_is_off_by_a_hundred_thousandth_is_seen(trained: Bench, weight: str) -> None:
    assert_seen_in_the_flatbuffer(trained, weight)


@pytest.mark.sweep
@pytest.mark.parametrize("weight", [DOWN.format(1), "qkv.1"])
def test_so_is_one_of_sums_of_thousands_of_terms(wide: Bench, weight: str) -> None:
    assert_seen_in_the_flatbuffer(wide, weight)


@pytest.mark.parametrize("module", ["qkv_projection", "w2"])
def test_so_is_one_of_the_reauthored_model(trained: Bench, module: str) -> None:
    find, tap = MODULES[module]
    outcome = trained.with_reauthored(jiggle(find, SMALL))
    assert_first_fault(f"smollm2 at full width, {module} of the re-authored model by 1e-5", outcome, FIRST, tap)
