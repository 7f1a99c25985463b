"""Every flatbuffer of a run is asked for one position past its KV cache: a write that nobody refuses is a warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT

from harness.jobs.cache_end import past_the_cache
from harness.jobs.facts import CacheEnd, Facts
from harness.jobs.reporter import Silent
from harness.pipeline.end_findings import cache_findings
from harness.processes.scheduler import TaskResult

LENGTH, KV_HEADS, HEAD_DIM = 6, 2, 4
SHAPES = {
    "default": {"k": (1, LENGTH, KV_HEADS, HEAD_DIM), "v": (1, LENGTH, KV_HEADS, HEAD_DIM)},
    "transposed": {"k": (1, KV_HEADS, LENGTH, HEAD_DIM), "v": (1, KV_HEADS, HEAD_DIM, LENGTH)},
}
TIME = {"default": {"k": 1, "v": 1}, "transposed": {"k": 2, "v": 3}}


def device(layout: str, slots: dict[str, int]) -> Callable[..., dict[str, Any]]:
    """Writes zeros to a slot of each side's cache; a side that is not named stays as it is."""

    def decode(position: int, cache: Any) -> dict[str, Any]:
        assert position == LENGTH
        after = {name: values.copy() for name, values in cache.items()}
        for side, slot in slots.items():
            index: list[Any] = [slice(None)] * 4
            index[TIME[layout][side]] = slot
            after[f"kv_cache_{side}_0"][tuple(index)] = 0
        return {**after, "logits": np.zeros(3)}

    return decode


def empty(layout: str) -> dict[str, Any]:
    return {f"kv_cache_{side}_0": np.zeros(shape, np.float32) for side, shape in SHAPES[layout].items()}


@pytest.mark.parametrize("layout", sorted(SHAPES))
@pytest.mark.parametrize(
    ("slots", "found"), [({"k": 5, "v": 5}, [5]), ({"v": 0}, [0]), ({"k": 5, "v": 2}, [2, 5]), ({}, [])]
)
def test_the_slots_that_changed_are_named(layout: str, slots: dict[str, int], found: list[int]) -> None:
    end = past_the_cache(device(layout, slots), empty(layout), LENGTH, layout)
    assert end == CacheEnd(position=LENGTH, overwritten=found)


def test_a_refusal_is_kept_and_is_no_finding() -> None:
    def refuse(position: int, cache: Any) -> dict[str, Any]:
        raise RuntimeError("a kernel grumbles. " * 20 + "gather_nd index\nout of bounds")

    end = past_the_cache(refuse, empty("default"), LENGTH, "default")
    assert end.refusal.endswith("grumbles. gather_nd index out of bounds")
    assert len(end.refusal) <= 160
    assert end.overwritten == []
    assert findings(("tflite-xnnpack", end)) == []


def findings(*stages: tuple[str, CacheEnd]) -> list[str]:
    results = {name: TaskResult(name, "ok", value=Facts(past_the_cache=end)) for name, end in stages}
    found = cache_findings(results)
    assert {(finding.kind, finding.severity) for finding in found} <= {("runtime", "warning")}
    return [finding.what for finding in found]


def test_stages_that_do_the_same_are_one_warning_and_others_have_their_own() -> None:
    last, none = CacheEnd(position=6, overwritten=[5]), CacheEnd(position=6)
    (what,) = findings(("tflite-xnnpack", last), ("tflite-builtin", last))
    assert what.startswith("tflite-xnnpack and tflite-builtin: decode at position 6 of a KV cache of 6 does not fail")
    assert "overwrites slot 5" in what
    assert len(findings(("tflite-xnnpack", last), ("tflite-builtin", none))) == 2


@pytest.mark.further
@pytest.mark.parametrize("stage", ["tflite-xnnpack", "tflite-builtin"])
@pytest.mark.parametrize("mask_as_input", [False, True])
def test_a_real_file_refuses_the_position_only_where_it_makes_the_mask(
    stage: str, mask_as_input: bool, prepare: Any
) -> None:
    from harness.jobs.job import Job
    from harness.pipeline.flatbuffers import convert_model
    from harness.stages.litert.stage import Runner
    from harness.store.cache import Cache

    spec = ROOT / "models" / "tiny_llama.py"
    prepared = prepare(spec, miniature=True, variant={"mask_as_input": mask_as_input})
    payload = {"prepared": prepared, "cache_root": str(Cache.standard().root), "spec_file": str(spec)}
    file = Path(convert_model({**payload, "spec_variable": "TINY_LLAMA"}, Silent())["flatbuffer"])
    kept = {name: prepared[name] for name in ("checkpoint", "dimensions", "points", "prefill", "kv_cache_len")}
    job = Job(stage=stage, spec_file=str(spec), spec_variable="TINY_LLAMA", inputs=[], traces=Path(), **kept)
    runner, cache = Runner(job, file, preserve=False), job.kv_cache_len
    inside = past_the_cache(lambda position, full: runner.decode(position - 2, full), *asked(runner, cache))
    assert inside == CacheEnd(position=cache, overwritten=[cache - 2])
    end = past_the_cache(runner.decode, *asked(runner, cache))
    assert end.overwritten == ([cache - 1] if mask_as_input else [])
    assert ("out of bounds" in end.refusal) is not mask_as_input


def asked(runner: Any, length: int) -> tuple[Any, int, str]:
    return runner.empty_cache("decode"), length, "default"
