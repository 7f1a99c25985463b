"""What a run is told: its options, what can be told to be wrong with them at once, and how the record shows them.

In: what the command line asked for. Out: `Options`, a UsageError, or plain data. Imports no framework.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import UsageError
from harness.inputs.text import read_sample
from harness.judge.rules import load_rules
from harness.names.recipes import GIVEN_FILE, STATIC, Recipe, refuse_other_modes
from harness.names.sample import WHOLE_UP_TO
from harness.names.stages import (
    BUILTIN,
    FAKEQUANT,
    FLOAT,
    HF,
    ORACLE,
    REAUTHORED,
    REFERENCE,
    XNNPACK,
    every_stage,
    float32_stages,
    hops_of,
    named,
    on_route,
    own_stages,
    present,
    route_stages,
    stage_named,
)
from harness.names.variant import VariantOptions
from harness.pipeline.early import check_early
from harness.plain import brief
from harness.spec.find import find_spec, not_installed
from harness.spec.find import own_stage as stage_of_route
from harness.spec.model import SpecRef
from harness.speed.machine import usable_cores
from harness.weights.sources import check_source

_LONGEST_TIMEOUT = 1_000_000  # seconds
_SEEDS = 2**64  # that torch takes


@dataclass(frozen=True)
class Options:
    """What `edge-parity run` was told. Paths may be relative; they are resolved before anything starts."""

    model: str
    checkpoint: str | None = None
    tflite: Path | None = None
    miniature: bool = False
    layers: int | None = None
    stages: tuple[str, ...] = field(default_factory=float32_stages)
    prompts: tuple[str, ...] = ()
    inputs_file: Path | None = None
    decode: int = 0
    edges: bool = False
    whole_up_to: int = WHOLE_UP_TO
    generate: int = 0
    generate_option: str = "--generate"  # as it is typed
    chat: bool = False
    text: Path | None = None
    variant: VariantOptions = field(default_factory=VariantOptions)
    quantize: tuple[Recipe, ...] = ()
    sensitivity: bool = False
    speed: bool = False
    speed_threads: int | None = None
    laws: bool = False
    seed: int = 0
    tolerances: Path | None = None
    out: Path = Path("reports")
    keep_traces: bool = False
    no_cache: bool = False
    timeout: float = 3600.0


def check(options: Options) -> SpecRef:
    """What can be told to be wrong without importing a framework. Returns the model's declaration.

    Raises UsageError.
    """
    ref = find_spec(options.model)
    missing = not_installed(ref)
    if missing:
        raise UsageError(f"{ref.name}: {missing}")
    load_rules(options.tolerances)
    _check_priced(options, ref)
    refuse_other_modes(options.quantize, stage_of_route(ref), ref.name)
    _check_sensitivity(options, ref)
    stages_of(options, stage_of_route(ref))
    _check_files(options)
    check_early(options, ref)
    if any(recipe.own for recipe in options.quantize):
        from harness.spec.recipes import check_read

        check_read(options.quantize, ref)
    return ref


def _check_priced(options: Options, ref: SpecRef) -> None:
    """Raises UsageError for a recipe of a route that has no stage with the numbers of a quantised file."""
    if on_route(stage_named(FAKEQUANT), stage_of_route(ref)).opens:
        return
    if options.quantize or recipe_of_file(options) != FLOAT:
        given = "--quantize" if options.quantize else f"--tflite {options.tflite} is quantised, and"
        raise UsageError(
            f"{ref.name}: {given}: what a recipe costs an exported model is not judged yet; run its float32 file"
        )


def _check_sensitivity(options: Options, ref: SpecRef) -> None:
    """Raises UsageError for a route in which the numbers of single layers cannot be chosen."""
    if options.sensitivity and not on_route(stage_named(FAKEQUANT), stage_of_route(ref)).switches:
        raise UsageError(f"--sensitivity changes layers one by one, which no stage of {ref.name} can; leave it out")


def stages_of(options: Options, own_stage: str = REAUTHORED) -> tuple[str, ...]:
    """The stages that a run has, those of quantised files by recipe. own_stage: the one that runs the route's own
    version. Raises UsageError where they compare nothing, and for another route's stage."""
    options = of_route(options, own_stage)
    known = [stage.name for stage in every_stage()]
    if not any(options.stages):
        raise UsageError(f"--stages is empty; give some of {', '.join(known)}")
    unknown = [name for name in options.stages if name not in known]
    if unknown:
        raise UsageError(f"unknown stage '{unknown[0]}'; the stages are {', '.join(known)}")
    own = recipe_of_file(options)
    alone = [stage.name for stage in every_stage() if stage.quantised_only and stage.name in options.stages]
    if alone and not options.quantize and own == FLOAT:
        raise UsageError(f"{alone[0]} runs quantised files alone; add --quantize RECIPE, or leave it out of --stages")
    if options.sensitivity and own == FLOAT and not options.quantize:
        raise UsageError("--sensitivity measures what recipes cost; add --quantize RECIPE, or leave it out")
    quantised = _quantised_stages(options, [own] if own != FLOAT else [recipe.name for recipe in options.quantize])
    if own != FLOAT and not hops_of(quantised):
        raise UsageError(f"--tflite {options.tflite} is quantised: --stages needs {XNNPACK} or {BUILTIN}")
    if options.quantize and not hops_of(quantised):
        raise UsageError(
            f"--quantize judges what runs the quantised file: --stages needs {XNNPACK} or {BUILTIN}, {REFERENCE} both"
        )
    # Without these two there is no noise floor, and without a noise floor no verdict.
    float32 = tuple(name for name in float32_stages() if name in options.stages or name in (ORACLE, HF))
    if own != FLOAT:  # there is no float32 file to run
        return (*(name for name in float32 if not stage_named(name).runs_file), *quantised)
    _check_compared(options.stages, float32, own_stage)
    return (*float32, *quantised)


def of_route(options: Options, own_stage: str) -> Options:
    """The options with the stages of a route where none were named. own_stage: the one that runs its own version.

    Raises UsageError where another route's was named.
    """
    others = [name for name in options.stages if name in own_stages() and name != own_stage]
    if others and options.stages != float32_stages():
        raise UsageError(
            f"--stages {','.join(options.stages)}: {others[0]} is a stage of another route; {options.model} has "
            f"'{own_stage}' in its place"
        )
    return replace(options, stages=tuple(name for name in options.stages if name not in others))


def recipe_of_file(options: Options) -> str:
    """The recipe of the file that the user gives: `none` for a float32 file, and where none is given.

    Raises UsageError for a file whose tables are damaged.
    """
    if options.tflite is None or options.quantize or options.variant.given():  # refused together, without a look
        return FLOAT
    from harness.flatbuffer.integrity import check_integrity
    from harness.flatbuffer.signatures import is_quantised

    # Checked here too: this is the first that reads the tables of a file that a person gives.
    return GIVEN_FILE if is_quantised(check_integrity(options.tflite)) else FLOAT


def reads_text(options: Options) -> bool:
    """Whether perplexity is measured: where a recipe is judged, or a text is given."""
    return options.text is not None or bool(options.quantize) or recipe_of_file(options) != FLOAT


def _quantised_stages(options: Options, recipes: Sequence[str]) -> tuple[str, ...]:
    """By recipe: what runs its file, and the re-authored model with the file's numbers, which that is compared with.

    Of a file whose activations have fixed ranges the model with its weights alone: see `static_findings`.
    """
    kernels = [stage for stage in every_stage() if stage.runs_file and stage.name in options.stages]
    references = {stage.quantised_reference for stage in kernels}
    fakes = [stage for stage in every_stage() if stage.weights_of_file and stage.name in references]
    return tuple(
        named(stage.name, recipe)
        for recipe in recipes
        for stage in ((*fakes, *kernels) if recipe not in STATIC else fakes[:1])
    )


def _check_compared(asked: Sequence[str], stages: tuple[str, ...], own_stage: str) -> None:
    """Raises UsageError where no hop has a stage that was asked for, or there is no hop at all."""
    compared = {name for hop in hops_of(stages) for name in hop.stages}
    for stage in map(stage_named, asked):
        needed = present(stage.reference, (own_stage,))
        if stage.reference and (stage.name not in compared or needed not in stages):
            given = ",".join(asked)
            raise UsageError(
                f"--stages {given}: nothing is compared with {stage.name}, whose hop needs '{needed}'; add it"
            )
    if not compared:
        hops = ", ".join(hop.name for hop in hops_of(route_stages(own_stage)))
        raise UsageError(f"--stages {','.join(asked)} compares nothing: the hops are {hops}; add '{own_stage}'")


def _check_files(options: Options) -> None:
    """Cheap checks first, so that a typing error costs no import of a framework."""
    if not 0 < options.timeout <= _LONGEST_TIMEOUT:  # NaN too
        raise UsageError(
            f"--timeout {options.timeout:g} must be positive and at most {_LONGEST_TIMEOUT:,}; give seconds, "
            "e.g. --timeout 600"
        )
    if options.layers is not None and options.layers < 1:
        raise UsageError(f"--layers {brief(options.layers)} leaves no model; give 1 or more")
    check_seed(options.seed)
    if options.decode < 0:
        raise UsageError(f"--decode {brief(options.decode)} is negative; give 0 or more tokens, e.g. --decode 16")
    _check_threads(options)
    if any(not prompt.strip() for prompt in options.prompts):
        raise UsageError("--prompt is empty; give some text")
    if options.text is not None:
        read_sample(options.text)
    if options.generate < 0:
        raise UsageError(f"--generate {options.generate} is negative; give 0 or more tokens, e.g. --generate 32")
    if options.chat and not options.prompts:
        raise UsageError("--chat puts a prompt into the chat template; add --prompt TEXT, or leave it out")
    if options.checkpoint is not None:
        check_source(options.checkpoint, options.miniature)
    if options.tflite is not None and options.variant.given():
        given = " and ".join(options.variant.given())
        raise UsageError(f"--tflite converts nothing, and {given} says how to convert; leave one of them out")
    if options.tflite is not None and options.quantize:
        raise UsageError("--tflite converts nothing, and --quantize says how to convert; leave one of them out")
    if options.tflite is not None:
        from harness.flatbuffer.integrity import check_integrity

        check_integrity(options.tflite)


def _check_threads(options: Options) -> None:
    threads, cores = options.speed_threads, usable_cores()
    if threads is not None and not options.speed:
        raise UsageError(f"--speed-threads {brief(threads)} is of --speed; add --speed, or leave it out")
    if threads is not None and not 1 <= threads <= cores:
        raise UsageError(f"--speed-threads {brief(threads)}: this machine has {cores}; give a number from 1 to {cores}")


def check_seed(seed: int) -> None:
    """Raises UsageError for what the generators of random numbers do not take."""
    if seed < 0:
        raise UsageError(f"--seed {brief(seed)} is negative; give 0 or more")
    if seed >= _SEEDS:
        raise UsageError(f"--seed {brief(seed)} is too large; give a number below 2^64, e.g. --seed 1")


def run_words(options: Options) -> list[str]:
    """The words of a command that runs the same model in the same way, without what it is run on."""
    variant = options.variant
    values = {"--kv-layout": variant.kv_layout, "--prefill": ",".join(map(str, variant.prefill or ()))}
    values["--kv-cache-len"] = str(variant.kv_cache_len)
    words = ["edge-parity", "run", options.model]
    for name, value in (
        ("--checkpoint", options.checkpoint),
        ("--tflite", options.tflite),
        ("--layers", options.layers),
        ("--tolerances", options.tolerances),
        ("--seed", options.seed or None),
    ):
        words += [name, str(value)] if value is not None else []
    words += ["--miniature"] if options.miniature else []
    for name in variant.given():
        words += [name, str(values[name])] if name in values else [name]
    return words


def recorded(options: Options, own_stage: str = REAUTHORED) -> dict[str, object]:
    """What was asked for, as the record shows it. own_stage: the one that runs the route's own version."""
    options = of_route(options, own_stage)
    return {
        "command": ["edge-parity", *sys.argv[1:]],
        "checkpoint": options.checkpoint,
        "miniature": options.miniature,
        "layers": options.layers,
        "tflite": str(options.tflite) if options.tflite else None,
        "stages": list(options.stages),
        "quantize": [recipe.name for recipe in options.quantize],
        "sensitivity": options.sensitivity,
        "speed": options.speed,
        "laws": options.laws,
        "prompts": list(options.prompts),
        "inputs": str(options.inputs_file) if options.inputs_file else None,
        "decode": options.decode,
        "edges": options.edges,
        "generate": options.generate,
        "chat": options.chat,
        "text": str(options.text) if options.text else None,
        "seed": options.seed,
        "tolerances": str(options.tolerances) if options.tolerances else "defaults",
    }
