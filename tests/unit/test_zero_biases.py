"""A bias of zeros that no constant of a file holds is not lost: adding it changes nothing. Any other one is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_file import packed, small

from harness.audit.constants import audit_constants
from harness.flatbuffer.reader import FlatbufferModel
from harness.names.codes import FindingCode
from harness.weights.parameters import ParameterSource

pytestmark = pytest.mark.miniature


@pytest.mark.parametrize(
    ("parameter", "value", "is_lost"),
    [("dense/bias", 0.0, False), ("norm/beta", 0.0, False), ("dense/bias", 0.5, True), ("dense/kernel", 0.0, True)],
)
def test_a_bias_of_zeros_is_not_lost(tmp_path: Path, parameter: str, value: float, is_lost: bool) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(packed(small()))
    save_file({"held": np.full(5, value, np.float32)}, tmp_path / "model.safetensors")
    found = audit_constants(FlatbufferModel(file), [ParameterSource(parameter=parameter, keys=["held"])], tmp_path)
    lost = [one.parameter for one in found.findings if one.code == FindingCode.CONSTANT_LACKING]
    assert lost == ([parameter] if is_lost else [])
