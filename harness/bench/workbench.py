"""A bench on which models are broken on purpose: the real stages and the real comparison, in one process.

In: a model's name and, for one of its three versions, what to break. Out: an `Outcome`, the hops and the first
fault as a run would record them. What is not broken is traced once and used by every case.
"""

from __future__ import annotations

import copy
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from harness.align.plan import PlanFacts
from harness.audit.values import ExpectedValues
from harness.bench.breaking import Change, ConfigChange, Tensors, loading, unchanged, write_changed
from harness.bench.outcome import Outcome, judged
from harness.bench.reseed import StoredWeight, places, reseed
from harness.compare.traces import FLOAT32_RUNS
from harness.jobs.facts import Facts
from harness.jobs.job import Job, JobInput
from harness.jobs.prepared import Prepared, Request
from harness.jobs.reporter import Silent
from harness.jobs.results import Converted, Tapped
from harness.jobs.session import Given, trace_inputs
from harness.names.coverage import Absence
from harness.names.stages import (
    HF,
    ORACLE,
    REAUTHORED,
    file_stages,
    hops_of,
    route_stages,
    runs_file,
    stage_named,
)
from harness.names.taps import LOCAL_SUFFIX
from harness.names.variant import VariantOptions, parse_variant
from harness.pipeline import flatbuffers as files
from harness.pipeline import prepare
from harness.record.record import Finding
from harness.spec.find import find_spec, own_stage
from harness.spec.load import load_spec
from harness.spec.model import Model
from harness.spec.route import Load, RouteModel, route_of
from harness.store.cache import Cache, sha256_of
from harness.weights.files import WEIGHTS_FILE
from harness.weights.first_layers import write_random_layers
from harness.weights.miniature import write_miniature

STAGES = route_stages(REAUTHORED)
FILE_STAGES = file_stages()
TORCH_STAGES = tuple(stage for stage in STAGES if stage not in FILE_STAGES)
LOCAL_STAGES = tuple(stage for stage in TORCH_STAGES if stage_named(stage).local_reference)
FIRST, XNNPACK, BUILTIN = (hop.name for hop in hops_of(STAGES))

# Prefill in two chunks, the second one padded, then two steps of decode; and a short one.
FEW = (("short", 6, 1), ("chunked", 45, 2))
# Decode of positions that prefill computes too, from before the edge of a miniature's window on.
DECODED = (*FEW, ("decoded", 24, 10))


class Bench:
    """One model with all its stages. Miniatures unless `real`; conversions come from the user's cache.

    inputs: (id, length, decode tail) each, drawn at random from `token_seed`; none: those of a run that names none.
    variant: the conversion's name. device_local: whether the TFLite stages have local passes too, as in a run.
    stages: those that there are; without TFLite ones nothing is converted. layers: the first so many at full width, of
    the trained weights if `real`, else of random ones. change: what is done to the re-authored network wherever it is
    loaded, to be converted too; then the cache must be nobody else's.
    """

    def __init__(
        self,
        name: str,
        *,
        seed: int = 0,
        inputs: Sequence[tuple[str, int, int]] = (),
        token_seed: int = 0,
        real: bool = False,
        cache: Cache | None = None,
        variant: str = "default",
        device_local: bool = False,
        stages: Sequence[str] | None = None,
        layers: int | None = None,
        change: Change = unchanged,
    ) -> None:
        assert cache is not None or change is unchanged, "a changed model is converted into a cache of its own alone"
        self.device_local, self.change = device_local, change
        self.ref = find_spec(name)
        self.own_stage = own_stage(self.ref)
        self.stages = route_stages(self.own_stage) if stages is None else stages
        self.model: Model = load_spec(self.ref)
        self.cache = cache or Cache.standard()
        self._temporary = tempfile.TemporaryDirectory(prefix="edge-parity-bench-")
        self.folder = Path(self._temporary.name)
        request = Request(
            spec_file=str(self.ref.file),
            spec_variable=self.ref.variable,
            miniature=not real and layers is None,
            layers=layers,
            seed=seed,
            cache_root=str(self.cache.root),
            variant=VariantOptions.exactly(parse_variant(variant)),
        )
        prepared = Prepared.model_validate(prepare.prepare(request.model_dump(), Silent()))
        if inputs:
            prepared.inputs = drawn(inputs, token_seed, prepared.dimensions.tokens)
        self.prepared = prepared
        self.checkpoint = Path(prepared.checkpoint)

    @functools.cached_property
    def flatbuffer(self) -> Path:
        """The conversion of the unbroken model."""
        given = Given(load=loading(self.change))
        return Path(Converted.model_validate(files.convert_model(self._payload(), Silent(), given)).flatbuffer)

    @functools.cached_property
    def tapped(self) -> tuple[Path, Path]:
        """(tapped copy, alignment plan) of the unbroken flatbuffer."""
        made = files.tap_flatbuffer({**self._payload(), "flatbuffer": str(self.flatbuffer)}, Silent())
        found = Tapped.model_validate(made)
        return Path(found.tapped), Path(found.plan)

    def reseeded(self, seed: int, inputs: Sequence[tuple[str, int, int]], flatbuffer: bool = True) -> Bench:
        """The same sizes with other random weights and other tokens, and without a conversion of its own."""
        other = Bench.__new__(Bench)
        other.ref, other.model, other.cache = self.ref, self.model, self.cache
        other.device_local, other.stages, other.change = self.device_local, self.stages, self.change
        other.own_stage = self.own_stage
        other._temporary = tempfile.TemporaryDirectory(prefix="edge-parity-bench-")
        other.folder = Path(other._temporary.name)
        other.checkpoint = other.folder / "checkpoint"
        other.checkpoint.mkdir()
        if self.prepared.miniature:
            write_miniature(self.model, seed, other.checkpoint)
        else:
            assert self.prepared.layers is not None
            write_random_layers(self.model, seed, self.prepared.layers, other.checkpoint)
        other.prepared = self.prepared.model_copy(
            update={"inputs": drawn(inputs, seed, self.prepared.dimensions.tokens)}
        )
        if not flatbuffer:
            return other
        (plain, tapped), (own, own_tapped) = (self.flatbuffer, self.tapped[0]), self.places
        other.flatbuffer = other.folder / "reseeded.tflite"
        other.tapped = other.folder / "tapped.tflite", self.tapped[1]
        for source, target, at in ((plain, other.flatbuffer, own), (tapped, other.tapped[0], own_tapped)):
            shutil.copyfile(source, target)
            reseed(target, at, other.checkpoint)
        return other

    @functools.cached_property
    def decoding(self) -> Bench:
        """The same model and files on `DECODED`."""
        other = copy.copy(self)
        for name in ("sound", "unbroken"):
            other.__dict__.pop(name, None)
        other.folder = self.folder / "decoding"
        other.folder.mkdir()
        inputs = drawn(DECODED, 0, self.prepared.dimensions.tokens)
        other.prepared = self.prepared.model_copy(update={"inputs": inputs})
        return other

    @functools.cached_property
    def places(self) -> tuple[list[StoredWeight], list[StoredWeight]]:
        """Where the flatbuffer and its tapped copy hold the weights."""
        files = self.flatbuffer, self.tapped[0]
        one, other = (places(file, self.prepared.parameters, self.checkpoint) for file in files)
        return one, other

    def on_inputs(self, inputs: Sequence[JobInput]) -> Outcome:
        """What a run of these inputs alone comes to; they are among those of the bench."""
        alone = self.prepared.model_copy(update={"inputs": list(inputs)})
        return judged(self.sound, alone, self.stages, self._why_missing)

    @property
    def constants(self) -> list[str]:
        """Names that `constant` takes, one for every weight of the model."""
        names = [
            name for name in self.tensors if not name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
        ]
        return [*names, *(f"qkv.{block}" for block in range(self.prepared.dimensions.blocks))]

    def own(self, model: Model | None = None) -> RouteModel:
        """The route's model at the sizes of the bench, of its own declaration or of another."""
        declared, prepared = model or self.model, self.prepared
        return route_of(declared).model(declared, miniature=prepared.miniature, layers=prepared.layers)

    def _payload(self) -> dict[str, object]:
        return {
            "prepared": self.prepared.model_dump(mode="json"),
            "cache_root": str(self.cache.root),
            "spec_file": str(self.ref.file),
            "spec_variable": self.ref.variable,
        }

    def trace(
        self,
        stage: str,
        folder: Path,
        *,
        checkpoint: Path | None = None,
        flatbuffer: Path | None = None,
        model: Model | None = None,
        tapped: tuple[Path, Path] | None = None,
        reference: Path | None = None,
        change: Change | None = None,
        load: Load | None = None,
    ) -> Facts:
        """Run one stage into `folder/<stage>`; returns its facts. A foreign flatbuffer is aligned and tapped again.

        tapped: a tapped copy and its plan, which need not be those of the flatbuffer. reference: the traces that make
        it a local pass. change: what is done to the re-authored network once it is loaded.
        load: what loads it, in place of that.
        """
        files: dict[str, Path] = {}
        if runs_file(stage):
            copy_and_plan = tapped or (self.tapped if flatbuffer is None else self.tap(flatbuffer))
            files = dict(zip(("tapped", "plan"), copy_and_plan, strict=True))
            files["flatbuffer"] = flatbuffer or self.flatbuffer
        job = self.job(stage, folder, checkpoint, files).model_copy(update={"reference": reference})
        given = Given(model or self.model, load or loading(change or self.change))
        return trace_inputs(job, Silent(), given)

    def job(
        self, stage: str, folder: Path, checkpoint: Path | None = None, files: Mapping[str, Path] | None = None
    ) -> Job:
        """What a run would tell a stage. files: the flatbuffer, its tapped copy and its plan, where needed."""
        return Job(
            stage=stage,
            opens=stage_named(stage).opens,
            spec_file=str(self.ref.file),
            spec_variable=self.ref.variable,
            checkpoint=checkpoint or self.checkpoint,
            dimensions=self.prepared.dimensions,
            points=self.prepared.points,
            inputs=self.prepared.inputs,
            prefill=self.prepared.prefill,
            kv_cache_len=self.prepared.kv_cache_len,
            whole_up_to=self.prepared.whole_up_to,
            variant=self.prepared.variant,
            traces=folder / stage,
            miniature=self.prepared.miniature,
            layers=self.prepared.layers,
            threads=1,
            **(files or {}),
        )

    def tap(self, flatbuffer: Path) -> tuple[Path, Path]:
        """(tapped copy, alignment plan) of a file that is not in the cache, beside it."""
        folder = flatbuffer.with_suffix(".tapped")
        if not folder.exists():
            folder.mkdir()
            files.write_tapped_and_plan(flatbuffer, folder, self.prepared)
        return folder / "model.tflite", folder / "plan.json"

    @functools.cached_property
    def sound(self) -> Path:
        """Traces of all unbroken stages."""
        folder = self.folder / "sound"
        for stage in self.stages:
            facts = self.trace(stage, folder)
            assert not facts.steps_differing_from_untouched_file
        for stage in self._local_stages:
            self.trace(stage, folder, reference=folder / ORACLE)
        for stage in FILE_STAGES if self.device_local else ():
            self.trace(stage, folder, reference=folder / self.own_stage)
        return folder

    @property
    def _local_stages(self) -> list[str]:
        return [HF, self.own_stage]

    @functools.cached_property
    def unbroken(self) -> Outcome:
        return self.judge(self.sound)

    def judge(self, broken: Path, stages: Sequence[str] = ()) -> Outcome:
        """Compare the traces in `broken`, and for stages that are not there the sound ones. stages: else all."""
        stages = stages or self.stages
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            joined = Path(temporary)
            passes = [stage + LOCAL_SUFFIX for stage in (*FLOAT32_RUNS, *stages)]
            for stage in dict.fromkeys((*stages, *FLOAT32_RUNS, *passes)):
                own = broken / stage
                if own.is_dir():
                    (joined / stage).symlink_to(own)
                elif not self._rests_on(stage, broken):
                    (joined / stage).symlink_to(self.sound / stage)
            return judged(joined, self.prepared, stages, self._why_missing)

    def _rests_on(self, name: str, broken: Path) -> bool:
        """Whether a local pass rests on a stage or a reference that was broken, so that the sound one says nothing."""
        stage = name.removesuffix(LOCAL_SUFFIX)
        reference = stage_named(HF if stage in FLOAT32_RUNS else stage).local_reference
        return name != stage and any((broken / part).is_dir() for part in (stage, reference) if part)

    def _why_missing(self, stage: str, tap: str) -> Absence:
        """As in a run of the unbroken file: what a broken one lacks as well is missing for no reason."""
        device = stage in FILE_STAGES
        return PlanFacts.read(self.tapped[1]).why_missing(stage, tap) if device else Absence(f"not in {stage}")

    def with_checkpoint(
        self,
        change: Callable[[Tensors], Any] = unchanged,
        config: ConfigChange = unchanged,
        stages: Sequence[str] = (ORACLE, HF),
    ) -> Outcome:
        """Break what Hugging Face loads: `change` gets the checkpoint's tensors, `config` its config.json."""
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            folder = Path(temporary)
            checkpoint = folder / "checkpoint"
            write_changed(self.checkpoint, checkpoint, change, config)
            for stage in stages:
                self.trace(stage, folder, checkpoint=checkpoint)
            oracle = (folder if ORACLE in stages else self.sound) / ORACLE
            for stage in self._local_stages:
                broken = checkpoint if stage in stages else None
                self.trace(stage, folder, checkpoint=broken, reference=oracle)
            return self.judge(folder)

    def with_reauthored(self, change: Change = unchanged, model: Model | None = None) -> Outcome:
        """Break the re-authored model: `change` gets the loaded network, `model` is another declaration of it."""
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            self.break_reauthored(Path(temporary), change, model)
            return self.judge(Path(temporary))

    def break_reauthored(self, folder: Path, change: Change = unchanged, model: Model | None = None) -> list[Finding]:
        """Trace the broken model into `folder`. Returns what the audit of its weights by value finds."""
        reference = self.sound / ORACLE  # traced when it is first asked for: not with the broken model
        facts = self.trace(self.own_stage, folder, model=model, change=change)
        self.trace(self.own_stage, folder, model=model, change=change, reference=reference)
        return facts.findings

    def with_flatbuffer(
        self, change: Callable[[Path], Any], stages: Sequence[str] = FILE_STAGES, retap: bool = False
    ) -> Outcome:
        """Break a copy of the flatbuffer: see `break_flatbuffer`."""
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            self.break_flatbuffer(Path(temporary), change, stages, retap)
            return self.judge(Path(temporary))

    def break_flatbuffer(
        self, folder: Path, change: Callable[[Path], Any], stages: Sequence[str] = FILE_STAGES, retap: bool = False
    ) -> Path:
        """Trace a broken copy of the flatbuffer into `folder`: `change` gets its path. Returns the copy.

        retap: align and tap the broken file, as a run does. Else `change` is applied to the tapped copy as well,
        which saves half the time; every run proves that both give the same.
        """
        file, copy_of_tapped = folder / "broken.tflite", folder / "tapped.tflite"
        shutil.copyfile(self.flatbuffer, file)
        change(file)
        assert sha256_of(file) != sha256_of(self.flatbuffer), "nothing was broken"
        if not retap:
            shutil.copyfile(self.tapped[0], copy_of_tapped)
            change(copy_of_tapped)
        tapped = self.tap(file) if retap else (copy_of_tapped, self.tapped[1])
        for stage in stages:
            facts = self.trace(stage, folder, flatbuffer=file, tapped=tapped)
            assert facts.steps_differing_from_untouched_file == []
            if self.device_local:
                self.trace(stage, folder, flatbuffer=file, tapped=tapped, reference=self.sound / self.own_stage)
        return file

    @functools.cached_property
    def tensors(self) -> Tensors:
        """The checkpoint's tensors by Hugging Face name."""
        return load_file(self.checkpoint / WEIGHTS_FILE)

    def constant(self, name: str) -> np.ndarray[Any, Any]:
        """A weight of the checkpoint as the flatbuffer holds it; `qkv.{block}` is the fused projection."""
        if not name.startswith("qkv."):
            return self.tensors[name].numpy()
        parameter = f"transformer_blocks.{name.removeprefix('qkv.')}.atten_func.qkv_projection.weight"
        source = next(source for source in self.prepared.parameters if source.parameter == parameter)
        return ExpectedValues(self.checkpoint).of(source)


def drawn(inputs: Sequence[tuple[str, int, int]], seed: int, vocab: int) -> list[JobInput]:
    """Random tokens: (id, length, decode tail) each."""
    random = np.random.default_rng(seed)
    return [
        JobInput(id=name, tokens=random.integers(3, vocab, length).tolist(), decode_tail=tail)
        for name, length, tail in inputs
    ]


@functools.cache
def bench(name: str, few: bool = True, variant: str = "default", stages: tuple[str, ...] = STAGES) -> Bench:
    """The bench that all tests of a session share."""
    return Bench(name, inputs=FEW if few else (), variant=variant, stages=stages)
