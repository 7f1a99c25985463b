"""What two files hold otherwise is read in them, whether or not the inputs reach it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_file

from harness.flatbuffer.reader import FlatbufferModel
from harness.pairs.compare import concluded
from harness.pairs.static import Found, Static
from harness.record.pair import Floor, PairComparison, PairOutput, PairSignature
from harness.render.pair import pair_headline, static_lines, write_pair

pytestmark = pytest.mark.miniature  # the schema is the runtime's own
WEIGHT, COMPOSITE, ADD = 1, 0, 1  # tensor, and operators


def file(path: Path, change: Callable[[Any], None] = lambda model: None, kind: str = "FLOAT32") -> FlatbufferModel:
    """Adds a constant twice; one of int8 has a scale for each of its rows."""
    from ai_edge_litert import schema_py_generated as schema

    model = small_file.small()
    options = schema.AddOptionsT()
    model.subgraphs[0].operators[ADD].builtinOptionsType = schema.BuiltinOptions.AddOptions
    model.subgraphs[0].operators[ADD].builtinOptions = options
    if kind == "INT8":
        weight = model.subgraphs[0].tensors[WEIGHT]
        weight.type = schema.TensorType.INT8
        model.buffers[1].data = np.arange(8, dtype=np.int8).view(np.uint8)
        weight.quantization = schema.QuantizationParametersT()
        weight.quantization.scale = np.array([0.5, 0.25], np.float32)
        weight.quantization.zeroPoint = np.zeros(2, np.int64)
        weight.quantization.quantizedDimension = 0
    change(model)
    path.write_bytes(small_file.packed(model))
    return FlatbufferModel(path)


def read(a: FlatbufferModel, b: FlatbufferModel, narrow: bool) -> Found:
    signatures = [model.signatures["decode"] for model in (a, b)]
    return Static(a, b, narrow).of(signatures[0], signatures[1], {0: 0, 2: 2, 3: 3})


def scale(factor: float) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.subgraphs[0].tensors[WEIGHT].quantization.scale[1] *= np.float32(factor)

    return change


def number(value: float) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.buffers[1].data.view(np.float32)[6] = value

    return change


def relu6(model: Any) -> None:
    model.subgraphs[0].operators[ADD].builtinOptions.fusedActivationFunction = 3


def compared(found: Found, floor: Floor = "float64") -> PairComparison:
    output = PairOutput(name="logits", stage="tflite-builtin", verdict="pass", relative=0.0)
    entry = PairSignature(
        name="decode", other_name="decode", inputs="seed 0", floor=floor, tensors=2, matched={"name": 2}, over=0,
        outputs=[output],
    )  # fmt: skip
    both = PairComparison(a="a.tflite", b="b.tflite", verdict="fail", exit_code=1, signatures=[entry])
    both.static = list(found.differences)
    both.quantised = ["A", "B"] if floor == "price" else []
    return concluded(both)


def test_files_that_hold_the_same_have_no_difference_and_no_price(tmp_path: Path) -> None:
    for kind in ("FLOAT32", "INT8"):
        found = read(file(tmp_path / "a", kind=kind), file(tmp_path / "b", kind=kind), narrow=kind == "INT8")
        assert found == Found((), priced=False)


def test_another_scale_on_the_same_grid_is_an_error_and_its_rounding_is_not(tmp_path: Path) -> None:
    a = file(tmp_path / "a", kind="INT8")
    found = read(a, file(tmp_path / "b", scale(1.5), "INT8"), narrow=True)
    words = "its constant 1 (t1) has another scale of channel 1: 0.25 in A and 0.375 in B"
    assert [(each.severity, each.what, each.words) for each in found.differences] == [("error", "constant", words)] * 2
    assert not found.priced
    both = compared(found, "price")
    assert (both.verdict, both.exit_code) == ("fail", 1)
    assert pair_headline(both).startswith("Numbers of one type on one kind of grid differ, which is not a price")
    assert read(a, file(tmp_path / "b", scale(1 + 2**-23), "INT8"), narrow=True) == Found((), priced=True)


def test_another_whole_number_is_an_error_and_another_type_is_a_price(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model.buffers[1].data[5] = 7

    a = file(tmp_path / "a", kind="INT8")
    found = read(a, file(tmp_path / "b", change, "INT8"), narrow=True)
    assert {(each.severity, each.words) for each in found.differences} == {
        ("error", "its constant 1 (t1) differs in 1 of 8 numbers, by up to 2; at [1, 1] it is 5 in A and 7 in B")
    }
    assert read(file(tmp_path / "b"), a, narrow=True) == Found((), priced=True)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (6.5, "differs in 1 of 8 numbers, by up to 0.5; at [1, 2] it is 6 in A and 6.5 in B"),
        (math.nan, "differs in 1 of 8 numbers; at [1, 2] it is 6 in A and NaN in B"),
    ],
)
def test_another_float_is_named_whatever_it_is(tmp_path: Path, value: float, words: str) -> None:
    found = read(file(tmp_path / "a"), file(tmp_path / "b", number(value)), narrow=False)
    assert {(each.severity, each.words) for each in found.differences} == {("warning", f"its constant 1 (t1) {words}")}
    assert found.why(ADD).endswith(words)


def test_an_option_that_no_input_reaches_is_in_the_sentence_of_the_verdict_and_on_the_page(tmp_path: Path) -> None:
    found = read(file(tmp_path / "a"), file(tmp_path / "b", relu6), narrow=False)
    words = "its option fusedActivationFunction is NONE in A and RELU6 in B"
    assert [(each.severity, each.what, each.words) for each in found.differences] == [("warning", "option", words)]
    both = compared(found)
    assert both.verdict == "pass"
    place = "operator 1 (ADD) of decode of B"
    assert f"do not show it: {place} has another option fusedActivationFunction." in pair_headline(both)
    assert list(static_lines(both)) == [("", f"warning: {place}: {words}")]
    write_pair(tmp_path / "page.html", both)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert words in page
    assert "<h1>a.tflite against b.tflite</h1>" in page


def test_another_operator_in_one_place_is_named(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = 41  # SUB

    a, b = file(tmp_path / "a"), file(tmp_path / "b", change)
    assert "ADD in A is SUB in B" in [each.words for each in read(a, b, narrow=False).differences]
