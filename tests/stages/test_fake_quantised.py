"""What a linear layer of a quantised file computes by definition, against the kernels that run it; and that quantising
the float32 file gives the file that the converter writes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_file
import torch
from quantised_files import model, quantised

from harness.flatbuffer.constants import NARROW
from harness.flatbuffer.quantise import quantise
from harness.flatbuffer.quantised import Held, held
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.writing import tensor_map
from harness.names.recipes import Rules
from harness.stages.torch.fake_quantised import (
    LayerNumbers,
    RowGrid,
    linear,
    rows_around_zero,
    rows_from_least,
    rows_from_least_halves_away,
)

pytestmark = pytest.mark.slow
WIDTH, OUT = 576, 64
UNIT_ROUNDOFF = 2.0**-24


def rule(precision: str, algorithm: str = "min_max_uniform_quantize", **weight: Any) -> Rules:
    config = {"weight_tensor_config": {"symmetric": True, **weight}, "compute_precision": precision}
    config["explicit_dequantize"] = precision == "FLOAT"
    return [{"regex": ".*", "operation": "FULLY_CONNECTED", "algorithm_key": algorithm, "op_config": config}]


RECIPES = {
    "int8 channelwise": rule("INTEGER", num_bits=8, dtype="INT", granularity="CHANNELWISE"),
    "int4 channelwise": rule("INTEGER", num_bits=4, dtype="INT", granularity="CHANNELWISE"),
    "int4 blockwise 32": rule("INTEGER", num_bits=4, dtype="INT", granularity="BLOCKWISE_32"),
    "weight-only int8": rule("FLOAT", num_bits=8, dtype="INT", granularity="CHANNELWISE"),
    "float16": rule("FLOAT", "float_casting", num_bits=16, dtype="FLOAT", granularity="TENSORWISE"),
}
KERNELS = ("XNNPACK", "builtin")


def rows() -> np.ndarray:
    """Rows of every kind, `[rows, WIDTH]`: the last five are exact halves of steps, on either grid."""
    random = np.random.default_rng(0)
    made = random.standard_normal((14, WIDTH)) * np.exp(random.standard_normal((14, 1)))
    made[1] = np.abs(made[1])
    made[2] = -np.abs(made[2])
    made[3] = 0
    made[4] *= 1e-6
    made[5] *= 1e-30
    made[6, 0] = 500  # one outlier
    made[7] = 3.25  # all the same
    made[8, 1:] = 0
    halves = random.integers(-126, 126, (5, WIDTH)) + 0.5
    halves[:, 0], halves[:, 1] = 127, -128
    halves[2:, 1] = -127
    halves[4] = np.abs(halves[4])
    return np.concatenate([made, halves, halves * 0.25]).astype(np.float32)


def one_layer(folder: Path) -> Path:
    """A float32 file of one FULLY_CONNECTED."""
    from ai_edge_litert import schema_py_generated as schema

    weight = np.random.default_rng(1).standard_normal((OUT, WIDTH)).astype(np.float32)
    made = small_file.small()
    code = schema.OperatorCodeT()
    code.builtinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.deprecatedBuiltinCode, code.version = int(schema.BuiltinOperator.FULLY_CONNECTED), 1
    made.operatorCodes = [code]
    made.buffers = [schema.BufferT(), schema.BufferT()]
    made.buffers[1].data = weight.view(np.uint8).reshape(-1)
    count = len(rows())
    tensors = [
        small_file.tensor(schema, "x", [count, WIDTH]),
        small_file.tensor(schema, "weight", [OUT, WIDTH], 1),
        small_file.tensor(schema, "y", [count, OUT]),
    ]
    call = small_file.operator(schema, 0, [0, 1, -1], [2])
    call.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    call.builtinOptions = schema.FullyConnectedOptionsT()
    made.subgraphs = [small_file.graph(tensors, [call], [0], [2])]
    made.signatureDefs[0].inputs, made.signatureDefs[0].outputs = [tensor_map("x", 0)], [tensor_map("y", 2)]
    made.signatureDefs[0].signatureKey = "serving_default"
    file = folder / "layer.tflite"
    file.write_bytes(small_file.packed(made))
    return file


def computed(file: Path, kernels: str, x: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = {"XNNPACK": OpResolverType.AUTO, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}[kernels]
    runtime = Interpreter(str(file), experimental_op_resolver_type=resolver, num_threads=1)
    runtime.allocate_tensors()
    runtime.set_tensor(runtime.get_input_details()[0]["index"], x)
    runtime.invoke()
    return np.array(runtime.get_tensor(runtime.get_output_details()[0]["index"]))


def weight_of(file: Path) -> Held:
    read = FlatbufferModel(file)
    graph = read.subgraph(0)
    (index,) = (
        number for number, tensor in enumerate(graph.tensors) if tensor.shape == (OUT, WIDTH) and is_held(read, tensor)
    )
    return held(read, graph, index)


def is_held(file: FlatbufferModel, tensor: Any) -> bool:
    return len(file.buffer(tensor.buffer)) > 0 and tensor.dtype in (*NARROW, "FLOAT16")


def grid_of_rows(recipe: str, kernels: str) -> RowGrid:
    if not recipe.startswith("int"):
        return RowGrid.NONE
    if kernels == "XNNPACK":
        return RowGrid.FROM_LEAST
    return RowGrid.FROM_LEAST_HALVES_AWAY if "blockwise" in recipe else RowGrid.AROUND_ZERO


def allowed(recipe: str, x: np.ndarray, weight: Held) -> np.ndarray:
    """What float32 may cost each sum: a few roundings, of all that a kernel adds up on the way to it.

    A sum of floats is rounded at every term. Kernels for 4 bits add numbers of 0 to 15 and take 8 times the sum of the
    row off again, and where rows have a zero point that is up to 128 steps of the row: both are sums of their own.
    """
    size = np.abs(x).astype(np.float64)
    span = np.maximum(x.max(1, initial=0) - x.min(1, initial=0), 0)
    step = np.where(span > 0, span / 255, 1)[:, None]  # kernels take 1 for a row of zeros
    if recipe.startswith("int4"):
        each = np.abs(weight.values) + 8 * weight.spread_scale
        return 4 * UNIT_ROUNDOFF * (size + 128 * step) @ each.T
    terms = size @ np.abs(weight.values).T
    return UNIT_ROUNDOFF * (4 * terms if recipe.startswith("int8") else np.sqrt(WIDTH) * terms)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_layer_computes_what_the_kernels_do_but_for_float32_rounding(
    recipe: str, kernels: str, tmp_path: Path
) -> None:
    file, x = tmp_path / "quantised.tflite", rows()
    quantise(one_layer(tmp_path), RECIPES[recipe], file, recipe)
    weight, grid = weight_of(file), grid_of_rows(recipe, kernels)
    plain = torch.from_numpy(weight.values).to(torch.float32)
    numbers = LayerNumbers(plain, None) if grid is RowGrid.NONE else LayerNumbers.of(weight)
    defined = linear(torch.from_numpy(x), numbers, None, grid).numpy().astype(np.float64)
    error = np.abs(computed(file, kernels, x) - defined)
    limit = allowed(recipe, x, weight) + np.finfo(np.float32).tiny
    print(f"{recipe} on {kernels}: at most {(error / limit).max():.2g} of the limit")
    assert (error <= limit).all()


def test_the_two_grids_of_rows_are_apart_and_neither_is_no_grid(tmp_path: Path) -> None:
    """Else the test above would hold for any of them."""
    quantise(one_layer(tmp_path), RECIPES["int8 channelwise"], tmp_path / "q.tflite", "")
    numbers, x = LayerNumbers.of(weight_of(tmp_path / "q.tflite")), torch.from_numpy(rows()[:1])
    one, two, none = (
        linear(x, numbers, None, grid) for grid in (RowGrid.FROM_LEAST, RowGrid.AROUND_ZERO, RowGrid.NONE)
    )
    for a, b in ((one, two), (one, none), (two, none)):
        assert float((a - b).norm() / b.norm()) > 1e-3


@pytest.mark.parametrize("quantised_rows", [rows_from_least, rows_from_least_halves_away, rows_around_zero])
def test_rows_are_whole_numbers_of_at_most_255_within_half_a_step(quantised_rows: Any) -> None:
    x = torch.from_numpy(rows())
    whole, step = quantised_rows(x)
    assert torch.equal(whole, whole.round())
    assert float(whole.abs().max()) <= 255
    assert torch.isfinite(step).all()
    error = (whole.double() * step.double() - x.double()).abs()
    # The zero point is rounded too, so that a number at an end may be cut off by another half.
    assert (error <= step.double() * (0.501 if quantised_rows is rows_around_zero else 1.001) + 1e-300).all()


def test_long_sums_of_whole_numbers_are_exact() -> None:
    """Of 4,096 products of 255 and 127, far beyond the whole numbers that float32 holds."""
    random = np.random.default_rng(2)
    matrix = random.integers(-128, 128, (8, 4096))
    numbers = LayerNumbers(torch.from_numpy(matrix.astype(np.float32)), torch.ones(8, dtype=torch.float64), 514)
    whole = random.integers(0, 256, (3, 4096))
    assert np.array_equal(numbers.times(torch.from_numpy(whole.astype(np.float32))).numpy(), whole @ matrix.T)


def test_a_bias_is_added_once_and_in_full() -> None:
    numbers = LayerNumbers(torch.eye(4), torch.full((4,), 0.5, dtype=torch.float64), 100)
    bias = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for grid in RowGrid:
        assert torch.allclose(linear(torch.zeros(2, 4), numbers, bias, grid), bias.expand(2, 4))


@pytest.mark.further
def test_the_converter_s_own_mode_gives_the_same_bytes(tmp_path: Path) -> None:
    from litert_torch.generative.utilities import converter
    from litert_torch.generative.utilities.export_config import ExportConfig

    mode, bench = "dynamic_int4_block32", model()
    prepared = bench.prepared
    network = bench.own().load(bench.checkpoint, prepared.kv_cache_len)
    made = converter.convert_to_tflite(
        network,
        output_path=str(tmp_path),
        output_name_prefix="own",
        prefill_seq_len=prepared.prefill,
        kv_cache_max_len=prepared.kv_cache_len,
        quantize=mode,
        export_config=ExportConfig(output_logits_on_prefill=True),
    )
    assert Path(made).read_bytes() == quantised(mode).file.read_bytes()
