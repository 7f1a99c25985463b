"""The engine on exact tokens beside the stages: right on the file that was judged, and found with another one."""

from __future__ import annotations

from pathlib import Path

import pytest
from watching import Watcher

from harness.commands.options import recipes_named
from harness.names.codes import FindingCode
from harness.names.loops import ENGINE, engine_of
from harness.names.stages import XNNPACK, named
from harness.names.variant import VariantOptions
from harness.pipeline import engine
from harness.pipeline.generation_run import generate
from harness.pipeline.options import Options
from harness.record.generation import StageGeneration
from harness.record.record import Finding

pytestmark = pytest.mark.extras("litert-lm")

INT8 = "dynamic_int8"


def columns(out: Path) -> tuple[dict[str, StageGeneration], list[Finding]]:
    """Of a run with a file in float32 and one in whole numbers, on a prompt longer than the largest prefill."""
    (out / "long.jsonl").write_text('{"id": "long", "tokens": %s}\n' % [(7 * at + 3) % 500 for at in range(40)])
    options = Options(
        model="tiny_llama",
        miniature=True,
        inputs_file=out / "long.jsonl",
        generate=12,
        variant=VariantOptions(kv_layout="transposed"),
        quantize=recipes_named(INT8),
        out=out,
    )
    _, found, findings = generate(options, Watcher())
    assert found.not_run == {}
    (prompt,) = found.prompts
    return {one.stage: one for one in prompt.stages}, findings


def test_it_says_what_xnnpack_says_on_the_same_file(tmp_path: Path) -> None:
    found, findings = columns(tmp_path)
    assert findings == []
    for recipe in ("none", INT8):
        own, xnnpack = found[engine_of(recipe).name], found[named(XNNPACK, recipe)]
        assert own.steps == 12
        assert own.tokens == xnnpack.tokens
        assert {one.kind for one in own.differences} <= {"inherited"}


def test_another_file_in_its_bundle_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = engine.file_of
    monkeypatch.setattr(engine, "file_of", lambda place, loop, results: right(place, engine_of(INT8), results))
    found, findings = columns(tmp_path)
    assert found[ENGINE].faults
    assert found[ENGINE].faults[0].against == XNNPACK
    (only,) = findings
    assert (only.code, only.what.split()[0]) == (FindingCode.GENERATES_ANOTHER_TOKEN, ENGINE)
