"""The stages of a recipe's file in this process, beside the sound traces of a bench.

In: a bench, a recipe, and a file that may be another than the recipe makes. Out: traces, an `Outcome`, and what the
audit of the recipe finds. What is not broken is quantised and traced once.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.align.plan import AlignmentPlan, PlanFacts
from harness.audit.finite import file_findings
from harness.audit.kept import kept_findings
from harness.audit.recipe import Float32Weights, audit_recipe
from harness.bench.narrow_weight import QuantisedFile
from harness.bench.outcome import Outcome
from harness.bench.workbench import Bench
from harness.compare.local import local_errors, with_local
from harness.compare.traces import compare_traces
from harness.errors import UsageError
from harness.flatbuffer.quantise import quantise
from harness.flatbuffer.reader import FlatbufferModel
from harness.jobs.reporter import Silent
from harness.jobs.session import trace_inputs
from harness.judge.rules import load_rules
from harness.locate.faults import LostStage, locate, summarise_hop
from harness.names.coverage import Absence
from harness.names.recipes import Rules
from harness.names.stages import HF, ORACLE, REAUTHORED, XNNPACK, Hop, Stage, hops_of, named, stage_named
from harness.pipeline.flatbuffers import readable_family, write_tapped_and_plan
from harness.pipeline.owned_faults import not_finite_stages
from harness.record.record import Finding
from harness.record.tap_row import taps_frame

# Modes of litert-torch that are tried on every clean model whose rows they divide.
MODES = ("fp16", "weight_only_int8", "dynamic_int8", "dynamic_int4_block32")


class QuantisedBench:
    """A recipe of a bench's model. kernels: the stages that run its file, without their recipe."""

    def __init__(self, bench: Bench, recipe: str, kernels: Sequence[str] = (XNNPACK,)) -> None:
        self.bench, self.recipe = bench, recipe
        self.runtimes = [stage_named(named(name, recipe)) for name in kernels]
        self.fakes = [stage_named(stage.reference) for stage in self.runtimes]
        self._temporary = tempfile.TemporaryDirectory(prefix=f"{recipe}-", dir=bench.folder)
        self.folder = Path(self._temporary.name)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those of the recipe, in the order of the pipeline."""
        return (*self.fakes, *self.runtimes)

    @property
    def hops(self) -> tuple[Hop, ...]:
        return hops_of((REAUTHORED, *(stage.name for stage in self.stages)))

    @functools.cached_property
    def rules(self) -> Rules:
        return list(self.bench.own().recipe_rules(self.recipe))

    @functools.cached_property
    def sound_file(self) -> QuantisedFile:
        """What the recipe makes of the bench's flatbuffer."""
        return self.quantised(self.rules, self.folder / "sound.tflite")

    def quantised(self, rules: Rules, target: Path) -> QuantisedFile:
        """What any rules make of it."""
        quantise(self.bench.flatbuffer, rules, target, self.recipe)
        return self.aligned(target)

    def aligned(self, file: Path) -> QuantisedFile:
        """A file with its tapped copy beside it."""
        folder = file.with_suffix(".tapped")
        folder.mkdir()
        write_tapped_and_plan(file, folder, self.bench.prepared)
        return QuantisedFile(file, folder / "model.tflite", folder / "plan.json")

    @functools.cached_property
    def sound(self) -> Path:
        """Traces of all stages on the file as the recipe makes it."""
        folder = self.folder / "traces"
        folder.mkdir()
        for stage in self.fakes:
            self.trace(stage, folder, self.sound_file)
        for stage in self.runtimes:
            self.run(stage, folder, self.sound_file, folder)
        return folder

    def trace(
        self, stage: Stage, folder: Path, files: QuantisedFile, reference: Path | None = None, named_as: str = ""
    ) -> None:
        """Trace a stage on a file into a folder. reference: traces that make it a local pass.

        named_as: the stage in whose place its values stand. Raises UsageError for a file that the stage does not take.
        """
        given = {"flatbuffer": files.file, "tapped": files.tapped, "plan": files.plan}
        job = self.bench.job(stage.name, folder, None, given)
        into = folder / (named_as or stage.name)
        trace_inputs(job.model_copy(update={"traces": into, "reference": reference}), Silent())

    def run(self, stage: Stage, folder: Path, files: QuantisedFile, references: Path) -> None:
        """A runtime on a file, and its local pass. references: traces of the fake-quantised stages."""
        self.trace(stage, folder, files)
        self.trace(stage, folder, files, references / stage.local_reference)

    def trace_file(self, folder: Path, files: QuantisedFile) -> dict[str, str]:
        """Every stage on another file, as in a run. Returns the stages that did not take it, and why."""
        lost: dict[str, str] = {}
        for stage in self.stages:
            try:
                self.trace(stage, folder, files)
                if stage.local_reference and stage.local_reference not in lost:
                    self.trace(stage, folder, files, folder / stage.local_reference)
            except (UsageError, RuntimeError, ValueError) as error:
                lost[stage.name] = " ".join(str(error).split())[:200]
        return lost

    def audit(
        self, files: QuantisedFile, rules: Rules | None = None, severities: Collection[str] = ("error",)
    ) -> list[Finding]:
        """What a run finds by reading the file. rules: else those of the recipe."""
        file = FlatbufferModel(files.file)
        plain = FlatbufferModel(self.bench.flatbuffer)
        weights = Float32Weights(plain, AlignmentPlan.read(self.bench.tapped[1]).sources)
        found, _ = audit_recipe(file, files.sources, rules or self.rules, self.recipe, weights.of)
        kept = kept_findings(file, files.sources, plain, self.recipe)
        every = (*file_findings(file, self.recipe), *found, *kept)
        return [finding for finding in every if finding.severity in severities]

    def judge(
        self, broken: Path | None = None, lost: Mapping[str, str] | None = None, files: QuantisedFile | None = None
    ) -> Outcome:
        """What a run would come to.

        broken: traces that stand in place of the sound ones. lost: stages that have none, and why. files: what the run
        would be about, if that is not the recipe's own file.
        """
        lost, files = lost or {}, files or self.sound_file
        family = readable_family(FlatbufferModel(files.file), AlignmentPlan.read(files.plan))
        with self.joined(broken, lost) as traces:
            return self._judge(traces, lost, {self.recipe: family})

    @contextmanager
    def joined(self, broken: Path | None, lost: Collection[str]) -> Iterator[Path]:
        """A folder with the traces of every stage: the broken ones, and for others the sound ones."""
        own = {path.name: path for path in (*self.bench.sound.iterdir(), *self.sound.iterdir())}
        own |= {path.name: path for path in broken.iterdir() if path.is_dir()} if broken else {}
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            for name, path in own.items():
                if name.split("]")[0] + "]" not in lost:
                    (Path(temporary) / name).symlink_to(path)
            yield Path(temporary)

    def _judge(self, traces: Path, lost: Mapping[str, str], families: Mapping[str, str]) -> Outcome:
        prepared, rules = self.bench.prepared, load_rules()
        inputs = [item.id for item in prepared.inputs]
        facts = PlanFacts.read(self.sound_file.plan)

        def why_missing(stage: str, tap: str) -> Absence:
            return facts.why_missing(stage, tap) if stage_named(stage).runs_file else Absence(f"not in {stage}")

        traced = {ORACLE, HF, REAUTHORED, *(stage.name for stage in self.stages if stage.name not in lost)}
        compared = compare_traces(
            traces,
            traced,
            inputs,
            prepared.taps,
            prepared.model,
            rules,
            why_missing,
            self.hops,
            families=families,
        )
        errors = local_errors(traces, compared.hops, inputs, prepared.taps)
        frame = taps_frame(with_local(compared.rows, errors, rules, families))
        found = {
            hop.name: summarise_hop(
                hop,
                frame,
                prepared.taps,
                compared.logits.get(hop.name),
                prepared.coverage_required(hop),
                _blocked(hop, lost),
            )
            for hop in self.hops
        }
        faults = locate(list(found.values()), frame, prepared.modules, {})
        not_finite = not_finite_stages(faults[0], frame, traces) if faults else []
        return Outcome(frame, found, faults[0] if faults else None, faults, not_finite)


def _blocked(hop: Hop, lost: Mapping[str, str]) -> LostStage | None:
    return next(
        (LostStage(stage, f"{stage} did not end: {lost[stage]}") for stage in hop.stages if stage in lost), None
    )
