"""Float constants of a file that a converter quantised: each is known by its numbers, whatever it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_file import packed, small

from harness.audit.kept import found_findings
from harness.flatbuffer.reader import FlatbufferModel

pytestmark = pytest.mark.miniature
NUMBERS = np.linspace(-1, 1, 8, dtype=np.float32) ** 3


def file_of(path: Path, values: npt.NDArray[Any], kind: str, scale: float = 0.0) -> FlatbufferModel:
    from ai_edge_litert import schema_py_generated as schema

    model = small()
    model.buffers[1].data = values.view(np.uint8)
    held = model.subgraphs[0].tensors[1]
    held.name, held.type = f"constant{kind}", getattr(schema.TensorType, kind)
    if scale:
        held.quantization = schema.QuantizationParametersT()
        held.quantization.scale, held.quantization.zeroPoint = [scale], [0]
    path.write_bytes(packed(model))
    return FlatbufferModel(path)


def told(tmp_path: Path, values: npt.NDArray[Any], kind: str, scale: float = 0.0) -> list[str]:
    plain = file_of(tmp_path / "plain.tflite", NUMBERS, "FLOAT32")
    file = file_of(tmp_path / "file.tflite", values, kind, scale)
    return [one.what for one in found_findings(file, {}, plain, "mine")]


def in_steps(scale: float) -> npt.NDArray[np.int8]:
    return np.clip(np.rint(NUMBERS / np.float32(scale)), -128, 127).astype(np.int8)


def test_the_same_numbers_and_the_nearest_ones_are_right(tmp_path: Path) -> None:
    assert told(tmp_path, NUMBERS, "FLOAT32") == []
    assert told(tmp_path, NUMBERS.astype(np.float16), "FLOAT16") == []
    assert told(tmp_path, in_steps(1 / 127), "INT8", 1 / 127) == []


@pytest.mark.parametrize("kind", ["FLOAT32", "FLOAT16"])
def test_another_number_is_told(tmp_path: Path, kind: str) -> None:
    wrong = NUMBERS.copy()
    wrong[3] += np.float32(0.01)
    said = told(tmp_path, wrong.astype(np.float16 if kind == "FLOAT16" else np.float32), kind)
    assert any("in the mine flatbuffer is not a constant of the float32 one" in one for one in said)
    assert any("is not in the mine one" in one for one in said)


def test_numbers_beyond_a_range_are_counted(tmp_path: Path) -> None:
    (said,) = told(tmp_path, in_steps(0.5 / 127), "INT8", 0.5 / 127)
    assert "has 2 of 8 numbers outside the range that the mine one keeps" in said
