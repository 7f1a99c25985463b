"""A table that one signature reads and that is not what another reads in its place is an error of its own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.audit import constants
from harness.flatbuffer.reads import ReadConstant
from harness.record.record import Finding

TABLE = (10000.0 ** (-np.arange(32) / 32)).astype(np.float32)
ENTRY = SimpleNamespace(outputs={"logits": 1})


def found(decode: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "a/b.Llama_module") -> list[Finding]:
    """The findings of a file whose prefill reads the right table, and whose decode reads another one."""
    read = [
        ReadConstant("a/b.Llama_module;", TABLE.reshape(1, 1, -1), signatures=["prefill_32"]),
        ReadConstant(f"{name};2", decode.reshape(1, 1, -1), signatures=["decode"]),
    ]
    monkeypatch.setattr(constants, "read_constants", lambda file, dtype="FLOAT32": read if dtype == "FLOAT32" else [])
    save_file({"unread": TABLE}, folder / "model.safetensors")
    file: Any = SimpleNamespace(signatures={"prefill_32": ENTRY, "decode": ENTRY})
    return constants.audit_constants(file, [], folder, [TABLE.tolist()]).findings


def test_a_table_of_decode_that_is_not_prefills_is_named_with_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finding,) = found(np.where(np.arange(32) == 3, TABLE * np.float32(1.001), TABLE), tmp_path, monkeypatch)
    assert (finding.code, finding.severity) == ("constant-differs-in-part", "error")
    assert "Llama_module [1, 1, 32] of decode differs from that of prefill_32" in finding.what
    assert "1 of 32 numbers" in finding.what


def test_a_table_that_is_as_right_and_one_that_is_another_are_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(TABLE.copy(), tmp_path, monkeypatch) == []
    for table, name in ((TABLE[::-1] * np.float32(3), "a/b.Llama_module"), (TABLE * np.float32(1.001), "a/b.Other")):
        (finding,) = found(np.ascontiguousarray(table), tmp_path, monkeypatch, name)
        assert (finding.code, finding.severity) == ("constants-unknown", "warning")
        assert finding.what.startswith("1 float constant of the flatbuffer could")
