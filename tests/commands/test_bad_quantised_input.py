"""A quantised file or a recipe that cannot be judged is refused in one line; one of other weights is never passed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import TINY_LLAMA
from paths import ROOT
from quantised_files import MODEL, model, quantised

from harness.commands.progress import PlainProgress
from harness.errors import UsageError
from harness.flatbuffer.writing import Rewriting
from harness.pipeline.conversions import quantised as quantised_in
from harness.pipeline.options import Options
from harness.pipeline.run import run
from harness.store.cache import Cache, sha256_of

pytestmark = pytest.mark.slow
SMOLLM2, INT8 = ROOT / "models" / "smollm2.py", "dynamic_int8"


def refused(call: Any, *given: Any, **options: Any) -> str:
    with pytest.raises(UsageError) as refusal:
        call(*given, **options)
    (line,) = str(refusal.value).splitlines()
    return line


def test_a_quantised_file_of_another_model_is_refused(prepare: Any) -> None:
    said = refused(prepare, SMOLLM2, tflite=str(quantised(INT8).file), miniature=True)
    assert "give the flatbuffer of smollm2" in said


@pytest.mark.parametrize("outside", [False, True])
def test_a_quantised_file_that_was_cut_short_is_refused(prepare: Any, tmp_path: Path, outside: bool) -> None:
    """Also one whose buffers lie outside the tables: those are whole then."""
    whole, cut = tmp_path / "whole.tflite", tmp_path / "cut.tflite"
    if outside:
        Rewriting(quantised(INT8).file).write(whole)
    else:
        shutil.copy(quantised(INT8).file, whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) * 4 // 5])
    assert "cut.tflite is truncated" in refused(prepare, TINY_LLAMA, tflite=str(cut))


def rule(**changed: Any) -> dict[str, Any]:
    weights = {"num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE", "dtype": "INT"}
    weights |= {key: changed.pop(key) for key in list(changed) if key in weights}
    config = {"weight_tensor_config": weights, "compute_precision": "INTEGER", "explicit_dequantize": False}
    own = {"regex": ".*", "operation": "FULLY_CONNECTED", "algorithm_key": "min_max_uniform_quantize"}
    return {**own, "op_config": config, **changed}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"operation": "CONV_2D"}, "left every weight in float32"),
        ({"operation": "CONV_2D", "regex": "Linear_w2"}, "matches no operator"),
        ({"operation": "NOT_AN_OPERATOR"}, "NOT_AN_OPERATOR"),
        ({"regex": "Linear_nowhere"}, "matches no operator"),
        ({"algorithm_key": "nothing"}, "Unsupported algorithm key: nothing"),
        ({"num_bits": 3}, "num_bits=3"),
        ({"num_bits": 16}, "num_bits=16"),
        ({"symmetric": False}, "symmetric=False"),
        ({"granularity": "BLOCKWISE_7"}, "BLOCKWISE_7"),
        ({"granularity": "BLOCKWISE_32"}, "BLOCKWISE_32"),
        ({"dtype": "FLOAT"}, "float_casting"),
    ],
)
def test_a_recipe_for_what_the_file_has_not_or_no_runtime_takes_is_refused(
    tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    file = model().flatbuffer
    said = refused(quantised_in, Cache(tmp_path), file, sha256_of(file), [rule(**changed)], "mine")
    assert "--quantize mine" in said
    assert says in said


def test_the_same_recipe_without_a_fault_is_taken(tmp_path: Path) -> None:
    file = model().flatbuffer
    made, now = quantised_in(Cache(tmp_path), file, sha256_of(file), [rule()], "mine")
    assert now
    assert made.stat().st_size < file.stat().st_size


def test_a_file_of_another_checkpoint_fails_for_that_and_no_kernel_is_charged(tmp_path: Path) -> None:
    wanted = Options(model=MODEL, miniature=True, seed=1, tflite=quantised(INT8).file, out=tmp_path)
    with PlainProgress() as progress:
        _, record = run(wanted, progress)
    assert record.exit_code == 1
    wrong = [finding for finding in record.findings if finding.code == "recipe-weight-wrong"]
    assert {finding.severity for finding in wrong} == {"error"}
    assert len(wrong) == 9, "eight layers by name, and how many more"
    assert "is not this checkpoint's weight" in wrong[0].what
    assert {fault.owner for fault in record.faults} == {"recipe file"}
