"""Recipes applied and measured: files made and run on the kernels that ship, and what each layer costs alone.

In: rules by name. Out: size and KL of each file, and costs. Files are kept by content, and so is what was measured of
them: nothing is quantised or measured twice.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from harness.compare.logits import percentiles
from harness.compare.metrics import logit_stats
from harness.errors import ProcessLostError
from harness.jobs.prepared import Prepared, TextToRun
from harness.jobs.results import Converted, Tapped
from harness.names.recipes import Rules
from harness.names.stages import FAKEQUANT, FLOAT, XNNPACK, named, stage_named
from harness.pipeline.flatbuffers import RECIPE_CODE
from harness.pipeline.tasks import SENSITIVITY, conversion_mb, file_tasks, sensitivity_tasks, stage_tasks
from harness.pipeline.work import Work, place_of
from harness.processes.scheduler import Results, Task, TaskResult, run_tasks
from harness.record.sensitivity import AloneCosts
from harness.store.cache import key_of, sha256_of, source_of
from harness.store.trace import Trace
from harness.system.memory import memory

_MEASURED = "measured"
_FILE = "figures.json"
_CODE = (
    "harness.compare.metrics",
    "harness.compare.kernels",
    "harness.compare.logits",
    "harness.stages.litert.stage",
    "harness.inputs.tokens",
)


@dataclass(frozen=True)
class FileFigures:
    """What a recipe's file came to. refused: why it cannot be taken, empty where it can."""

    mb: float
    kl_mean: float
    kl_p99: float
    flips: int
    positions: int
    bits: Mapping[str, int]  # of each layer's numbers
    refused: str = ""


@dataclass
class Evaluation:
    """A model whose recipes are tried: its float32 file is made once, and its logits are kept."""

    state: Work
    prepared: Prepared
    _known: dict[str, TaskResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nothing but logits is traced, by the file that ships and not a tapped copy; and no text beside the inputs."""
        items = [item.model_copy(update={"logits_only": True}) for item in self.prepared.inputs]
        self.prepared = self.prepared.model_copy(update={"inputs": items, "text": TextToRun()})

    def begin(self) -> None:
        """Make the float32 file, and take the float model's logits."""
        self._run([self.prepared.own_stage, XNNPACK])

    def measure(self, recipes: Mapping[str, Rules]) -> dict[str, FileFigures]:
        """Figures of each recipe's file on XNNPACK. Raises ProcessLostError for a process that did not end."""
        self.prepared = self.prepared.model_copy(update={"recipes": {**self.prepared.recipes, **recipes}})
        self._work([task for task in self._files_of(recipes) if task.gives is Converted])
        kept = {name: self._kept(self._key(name)) for name in recipes}
        self._run([named(XNNPACK, name) for name, known in kept.items() if known is None])
        return {name: known or self._measured(name) for name, known in kept.items()}

    def _key(self, recipe: str) -> str:
        return key_of(
            {
                "flatbuffer": self._made(recipe).sha256,
                "weights": self.prepared.source.sha256,
                "conversion": self.prepared.conversion_key,
                "inputs": [(item.id, item.tokens, item.decode_tail, item.earlier) for item in self.prepared.inputs],
                "runtime": version("ai-edge-litert"),
                "code": {name: sha256_of(source_of(name)) for name in (*_CODE, *RECIPE_CODE)},
            }
        )

    def _kept(self, key: str) -> FileFigures | None:
        entry = self.state.cache.entry(_MEASURED, key)
        return None if entry is None else FileFigures(**json.loads((entry / _FILE).read_text()))

    def _measured(self, recipe: str) -> FileFigures:
        traces, stage = self.state.folder / "traces", named(XNNPACK, recipe)
        kl, flips = [], 0
        for item in self.prepared.inputs:
            right = Trace.open(traces / self.prepared.own_stage / item.id).load("logits")
            own = Trace.open(traces / stage / item.id).load("logits")
            stats = logit_stats(right, own)
            kl.append(stats.kl)
            flips += int((stats.top1_reference != stats.top1_candidate).sum())
        every = np.concatenate(kl)
        tapped = self._known[named("tap", recipe)].gave(Tapped)
        assert tapped is not None, "the stage needs it"
        wrong = [found.what for found in tapped.findings if found.severity == "error"]
        found = FileFigures(
            mb=Path(self._made(recipe).flatbuffer).stat().st_size / 1e6,
            kl_mean=float(every.mean()),
            kl_p99=percentiles(every)["kl_p99"],
            flips=flips,
            positions=len(every),
            bits={layer.layer: layer.bits for layer in tapped.layers},
            refused=wrong[0] if wrong else "",
        )
        shutil.rmtree(traces / stage, ignore_errors=True)
        self._keep(self._key(recipe), json.dumps(asdict(found)))
        return found

    def costs(self, recipe: str) -> AloneCosts:
        """What each layer costs that alone has the numbers of a recipe's file."""
        stage = stage_named(named(FAKEQUANT, recipe))
        modules = ("harness.price.sensitivity", *(where.partition(":")[0] for where in (stage.opens, stage.switches)))
        key = key_of({"alone": self._key(recipe), "code": {name: sha256_of(source_of(name)) for name in modules}})
        entry = self.state.cache.entry(_MEASURED, key)
        if entry is not None:
            return AloneCosts.model_validate_json((entry / _FILE).read_text())
        self._work(self._files_of([recipe]))
        self._work(sensitivity_tasks(place_of(self.state), self.prepared, [stage], self._known, alone=True))
        found = self._known[named(SENSITIVITY, recipe)].gave(AloneCosts)
        assert found is not None
        self._keep(key, found.model_dump_json())
        return found

    def _keep(self, key: str, figures: str) -> None:
        def make(folder: Path) -> None:
            (folder / _FILE).write_text(figures)

        self.state.cache.build(_MEASURED, key, make)

    def file_of(self, recipe: str = FLOAT) -> Path:
        return Path(self._made(recipe).flatbuffer)

    def plan_of_float32(self) -> Path:
        tapped = self._known["tap"].gave(Tapped)
        assert tapped is not None
        return Path(tapped.plan)

    def _made(self, recipe: str) -> Converted:
        made = self._known[named("convert", recipe)].gave(Converted)
        assert made is not None, "no recipe is measured that was not applied"
        return made

    def _files_of(self, recipes: Iterable[str]) -> list[Task]:
        return file_tasks(place_of(self.state), self.prepared, [named(XNNPACK, name) for name in recipes])

    def _run(self, stages: Sequence[str]) -> None:
        """The tasks of these stages that have not run yet."""
        prepared = self.prepared.model_copy(update={"audited": True})
        tasks = stage_tasks(place_of(self.state), prepared, tuple(stages)) if stages else []
        self._work(tasks)

    def _work(self, tasks: Sequence[Task]) -> None:
        new = [self._after_known(task) for task in tasks if task.name not in self._known]
        budget = max(0.8 * memory().free / 1e6, conversion_mb(self.prepared))
        ended = run_tasks(new, self.state.log, self.state.watcher, cores=os.cpu_count() or 1, memory_mb=budget)
        for result in ended.values():
            if result.status != "ok":
                raise ProcessLostError(f"{result.name} {result.status}: {result.detail}")
        self._known |= ended

    def _after_known(self, task: Task) -> Task:
        """Without waiting for what is known already, and told of it."""
        payload, known = task.payload, dict(self._known)

        def told(results: Results) -> dict[str, Any]:
            assert callable(payload)
            return payload({**known, **results})

        return replace(
            task,
            needs=tuple(need for need in task.needs if need not in known),
            payload=told if callable(payload) else payload,
        )
