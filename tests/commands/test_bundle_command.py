"""`edge-parity bundle`: what cannot be meant is refused in one line, before anything is prepared."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundles import litertlm
from typer.testing import CliRunner

from harness.commands.main import app
from harness.errors import UsageError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["FILE"], "has neither of --check and --out"),
        (["FILE", "--check", "smollm2", "--out", "b.litertlm"], "has both of --check and --out"),
        (["FILE", "--check", "smollm2", "--kv-cache-len", "64"], "--kv-cache-len says what to put into a bundle"),
        (["FILE", "--check", "smollm2", "--tflite", "a.tflite"], "--tflite says what to put into a bundle"),
        (["smollm2", "--out", "a.litertlm", "--quantize", "fp16,dynamic_int8"], "a bundle holds one file"),
        (["smollm2", "--out", "a.tflite"], "give a name that ends in .litertlm or .task"),
        (["smollm2", "--out", "a.task", "--kv-layout", "default"], "give transposed"),
        (["gone.litertlm", "--check", "smollm2"], "cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    whole = str(litertlm(tmp_path))
    done = CliRunner().invoke(app, ["bundle", *(whole if word == "FILE" else word for word in words)])
    assert isinstance(done.exception, UsageError)
    assert said in str(done.exception)


def test_a_file_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.litertlm").write_bytes(b"\0" * 100)
    done = CliRunner().invoke(app, ["bundle", str(tmp_path / "a.litertlm"), "--check", "smollm2"])
    assert isinstance(done.exception, UsageError)
    assert "is not a bundle" in str(done.exception)


def test_extract_is_of_bundles_and_writes_over_nothing(tmp_path: Path) -> None:
    from harness.bundle.reader import read_bundle
    from harness.inspection.bundle import write_parts

    bundle = read_bundle(litertlm(tmp_path))
    written = write_parts(bundle, tmp_path / "out")
    assert [file.name for file in written] == [
        "section-0.metadata.llm_metadata.pb",
        "section-1.tokenizer.json",
        "section-2.model.tflite",
    ]
    assert written[2].read_bytes() == (tmp_path / "model.tflite").read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        write_parts(bundle, tmp_path / "out")
