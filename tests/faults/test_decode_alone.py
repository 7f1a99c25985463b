"""What decode alone does wrong is found, placed and told from what prefill does too; its operator is of decode."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.bench.catalogue import all_faults
from harness.bench.explaining import explain
from harness.bench.graph import Edit, only, rewire, rewrite, turn
from harness.bench.mistake import Mistake
from harness.bench.run import run_fault
from harness.bench.workbench import DECODED, FIRST, Bench
from harness.jobs.reporter import Silent
from harness.operators import job as descend
from harness.stages.litert_torch.faults.rewiring import patched

pytestmark = pytest.mark.slow

FAULTS = {fault.id: fault for fault in all_faults() if fault.only_in}
# Their numbers are exact in these miniatures, or the tokens do not meet them: an audit sees them.
AUDITED = ("flatbuffer-ops/decode-embedding", "flatbuffer-ops/decode-last-bits")
SHOWN = [name for name in FAULTS if name not in AUDITED]
COMPOSITE = "STABLEHLO_COMPOSITE"


@pytest.fixture(scope="module")
def benches() -> dict[str, Bench]:
    return {}


def bench_of(benches: dict[str, Bench], model: str) -> Bench:
    if model not in benches:
        benches[model] = Bench(model, inputs=DECODED, device_local=True)
    return benches[model]


@pytest.mark.parametrize("name", SHOWN)
def test_a_fault_of_decode_is_found_at_its_tap_and_told_as_such(name: str, benches: dict[str, Bench]) -> None:
    fault: Mistake = FAULTS[name]
    result = run_fault(bench_of(benches, fault.model), fault)
    assert (result.error, result.hop) == ("", fault.hop)
    assert result.tap in fault.taps
    assert result.only_in == "decode"
    assert result.owner in result.expected_owners
    assert not fault.causes or result.diagnosis[:1] == [fault.causes[0]]


def test_a_cache_written_one_slot_before_its_own_is_a_fault_of_decode(
    benches: dict[str, Bench], tmp_path: Path
) -> None:
    """The last slot of prefill is overwritten as well; keys and values of both blocks are one mistake."""
    model = bench_of(benches, "tiny_llama")

    def slot_before(original: Any) -> Any:
        def update(cache: Any, pos: Any, *rest: Any, **more: Any) -> Any:
            return original(cache, (pos - int(pos.numel() == 1)).clamp(min=0), *rest, **more)

        return update

    model.sound  # noqa: B018 - traced before the model is broken
    with patched("kv_cache", "update", slot_before):
        model.break_reauthored(tmp_path, lambda network: None)
    outcome = model.judge(tmp_path)
    told = {fault.tap: (fault.only_in, fault.same_as) for fault in outcome.faults if fault.hop == FIRST}
    assert told["block.0.cache.k"] == ("decode", "")
    assert {told[tap] for tap in ("block.0.cache.v", "block.1.cache.k", "block.1.cache.v")} == {
        ("decode", "block.0.cache.k")
    }
    (cause,) = explain(model, tmp_path, outcome)
    assert cause.hypothesis == "decode_slot"
    assert "one slot before its own" in cause.detail


def test_a_window_of_decode_starts_at_its_edge(benches: dict[str, Bench], tmp_path: Path) -> None:
    fault, model = FAULTS["re-authored-code/decode-window"], bench_of(benches, "gemma2")
    model.sound  # noqa: B018 - traced before the model is broken
    with fault.site.around():
        model.break_reauthored(tmp_path, fault.site.change)
    found = model.judge(tmp_path).fault
    assert found is not None
    assert (found.only_in, found.starts_at, found.boundary) == ("decode", 16, "window")


@pytest.mark.parametrize("name", ["re-authored-code/cache-off-by-one", "re-authored-code/rope-interleaved"])
def test_what_prefill_does_wrong_too_is_not_told_as_a_fault_of_decode(name: str, benches: dict[str, Bench]) -> None:
    fault = next(fault for fault in all_faults() if fault.id == name)
    result = run_fault(bench_of(benches, fault.model), fault)
    assert (result.hop, result.only_in) == (fault.hop, "")


@pytest.mark.parametrize(
    ("edits", "tap", "op"),
    [
        ((turn("SUB", 1),), "block.0.attn.k_rope", "SUB"),
        (
            (rewire(COMPOSITE, 4, 1, (COMPOSITE, 1, "inputs", 1)),),
            "block.1.attn.context",
            None,  # which one inside the composite is not promised
        ),
    ],
    ids=["rotation of keys", "cache of another block"],
)
def test_its_operator_is_one_of_the_decode_signature(
    edits: tuple[Edit, ...], tap: str, op: str | None, benches: dict[str, Bench], tmp_path: Path
) -> None:
    model, file = bench_of(benches, "tiny_llama"), tmp_path / "broken.tflite"
    shutil.copyfile(model.flatbuffer, file)
    rewrite(file, only("decode", *edits))
    tapped, plan = model.tap(file)
    job = model.job("tflite-xnnpack", Path("unused"), None, {"flatbuffer": file, "tapped": tapped, "plan": plan})
    asked = job.model_copy(update={"search": [tap], "search_at": {tap: 20}})
    found = descend.descend(asked, model.model, Silent()).faults[tap]
    assert (found.signature, found.whose) == ("decode", "converter")
    assert op in (None, found.op)
    sound = {"flatbuffer": model.flatbuffer, "tapped": model.tapped[0], "plan": model.tapped[1]}
    assert descend.descend(asked.model_copy(update=sound), model.model, Silent()).faults == {}
