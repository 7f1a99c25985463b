"""The last position of the KV cache, which no default input reaches, is decoded once by each version and compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.align.layout import canonical_cache
from harness.jobs.cache_end import last_position, wrong
from harness.jobs.facts import Facts, LastPosition
from harness.pipeline.end_findings import last_position_findings
from harness.processes.scheduler import TaskResult

LENGTH = 6
EMPTY = {
    "default": {f"kv_cache_{side}_{block}": (1, LENGTH, 2, 4) for side in "kv" for block in (0, 1)},
    "transposed": {f"kv_cache_{side}_{block}": (1, 2, LENGTH, 4) if side == "k" else (1, 2, 4, LENGTH)
                   for side in "kv" for block in (0, 1)},
}  # fmt: skip
KNOWN = LastPosition(position=5, logits=[0.0, 1.0, 2.0, 3.0])


def asked(layout: str, decode: Callable[[int, Mapping[str, Any]], Any]) -> LastPosition:
    empty = {name: np.zeros(shape, np.float32) for name, shape in EMPTY[layout].items()}
    return last_position(decode, empty, LENGTH, layout)


def seen(layout: str) -> dict[str, Any]:
    """The caches that a version is given, slot by slot."""
    held: dict[str, Any] = {}

    def decode(position: int, cache: Mapping[str, Any]) -> dict[str, Any]:
        assert position == LENGTH - 1
        held.update({name: canonical_cache(values, name.split("_")[2], layout) for name, values in cache.items()})
        return {"logits": np.zeros((1, 1, 8), np.float32)}

    asked(layout, decode)
    return held


def test_all_versions_get_the_same_numbers_in_every_slot_whatever_their_layout() -> None:
    plain, transposed = seen("default"), seen("transposed")
    assert plain.keys() == transposed.keys()
    for name, values in plain.items():
        assert np.array_equal(values, transposed[name])
        assert np.abs(values).min() > 0
    kinds = [values.tobytes() for values in plain.values()]
    assert len(set(kinds)) == len(kinds)


def test_a_sample_of_the_logits_is_kept_and_what_is_not_finite_is_none() -> None:
    logits = np.arange(1000, dtype=np.float32)
    logits[3] = np.nan
    last = asked("default", lambda position, cache: {"logits": logits[None, None]})
    assert last.position == LENGTH - 1
    assert last.logits[:3] == [0.0, None, 6.0]
    assert LastPosition.model_validate_json(last.model_dump_json()) == last


def test_a_refusal_is_kept() -> None:
    def refuse(position: int, cache: Mapping[str, Any]) -> dict[str, Any]:
        raise IndexError("index 5 is out of bounds\nfor dimension 0")

    assert asked("default", refuse).refusal == "index 5 is out of bounds for dimension 0"


@pytest.mark.parametrize(
    ("logits", "says"),
    [
        ([0.0, 1.0, 2.0, 3.0001], ""),
        ([0.0, 1.0, 2.0, 3.1], "gives other logits, off by 0.089 of their spread"),
        ([0.0, None, 2.0, 3.0], "gives logits that are not finite"),
    ],
)
def test_what_is_off_is_measured_by_the_spread_of_the_logits(logits: list[float | None], says: str) -> None:
    assert wrong(LastPosition(position=5, logits=logits), KNOWN) == says


def test_a_reference_that_has_no_numbers_blames_nobody() -> None:
    other = LastPosition(position=5, logits=[9.0, 9.0, 9.0, 9.0])
    nan = LastPosition(position=5, logits=[None, 1.0, 2.0, 3.0])
    for reference in (nan, LastPosition(position=5, refusal="too long"), LastPosition(position=5)):
        assert wrong(other, reference) == ""
    assert wrong(KNOWN, KNOWN.model_copy(update={"logits": [1.0] * 4})) == ""  # without a spread nothing is far away


def findings(reference: LastPosition | None, passing: set[str], **stages: LastPosition) -> list[str]:
    held = {"reauthored": reference, **{name.replace("_", "-"): last for name, last in stages.items()}}
    results = {name: TaskResult(name, "ok", value=Facts(last_position=last)) for name, last in held.items()}
    found = last_position_findings(results, passing)
    assert {(finding.kind, finding.severity) for finding in found} <= {("runtime", "error")}
    return [finding.what for finding in found]


NOT_FINITE = LastPosition(position=5, logits=[None] * 4)
BOTH = {"tflite-xnnpack", "tflite-builtin"}


def test_stages_that_do_the_same_are_one_error() -> None:
    (what,) = findings(KNOWN, BOTH, tflite_xnnpack=NOT_FINITE, tflite_builtin=NOT_FINITE)
    assert what.startswith("tflite-xnnpack and tflite-builtin: decode at position 5, the last one of the KV cache")
    assert "gives logits that are not finite; the re-authored model does not" in what
    (refused,) = findings(KNOWN, BOTH, tflite_xnnpack=LastPosition(position=5, refusal="bounds"), tflite_builtin=KNOWN)
    assert refused.startswith("tflite-xnnpack: decode at position 5")
    assert "refuses it (bounds)" in refused


def test_where_a_hop_fails_or_nothing_was_asked_nothing_is_said() -> None:
    assert findings(KNOWN, {"tflite-xnnpack"}, tflite_xnnpack=KNOWN, tflite_builtin=NOT_FINITE) == []
    assert findings(None, BOTH, tflite_xnnpack=NOT_FINITE) == []
    assert findings(KNOWN, BOTH) == []
    assert findings(KNOWN, BOTH, tflite_xnnpack=KNOWN, tflite_builtin=KNOWN) == []


def bounded(path: Path, bound: int) -> Path:
    """A copy of a real file that takes no position after `bound`, which it checks before it takes a row of the mask."""
    from harness.bench.graph import everywhere, operator, rewrite
    from harness.bench.workbench import bench

    def edit(model: Any, graph: Any) -> None:
        op = operator(model, graph, "LESS_EQUAL", 0)
        tensor = graph.tensors[int(op.inputs[1])]
        held = model.buffers[tensor.buffer]
        assert np.asarray(held.data, np.uint8).view(np.int32).tolist() in ([255], [bound])
        held.data = np.array([bound], np.int32).view(np.uint8)

    shutil.copy(bench("tiny_llama").flatbuffer, path)
    rewrite(path, everywhere(edit))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tflite-builtin", pytest.param("tflite-xnnpack", marks=pytest.mark.further)])
@pytest.mark.parametrize(("bound", "says"), [(255, ""), (254, "not finite"), (200, "not finite")])
def test_a_bound_that_is_one_too_small_is_found_in_a_real_file(
    stage: str, bound: int, says: str, tmp_path: Path
) -> None:
    from harness.bench.workbench import bench

    llama = bench("tiny_llama")
    reference = LastPosition.model_validate(llama.trace("reauthored", tmp_path)["last_position"])
    own = llama.trace(stage, tmp_path, flatbuffer=bounded(tmp_path / "m.tflite", bound))["last_position"]
    assert reference.position == 255
    said = wrong(LastPosition.model_validate(own), reference)
    assert says in said
    assert bool(said) == bool(says)
