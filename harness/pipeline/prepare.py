"""What happens before the first stage: spec, checkpoint, inputs and the audit of weight names.

In: what the command line asked for. Out: a `Prepared`, from which every stage's job is made.
These functions run in processes of their own, because a spec file imports the frameworks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.align.modules import ModuleMap, hf_modules
from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.signatures import DeviceShape, check_width, device_shape
from harness.inputs.chat import chat_inputs, stop_tokens
from harness.inputs.decode import to_draw
from harness.inputs.edges import edge_inputs
from harness.inputs.given import check_ids, inputs_from_jsonl, inputs_from_prompts
from harness.inputs.text import text_sample
from harness.inputs.tokens import (
    TokenInput,
    default_inputs,
    describe_schedule,
    schedule_of,
)
from harness.jobs.job import Dimensions, JobInput
from harness.jobs.prepared import Prepared, Request, TextToRun
from harness.jobs.reporter import Reporter
from harness.names.boundaries import CACHE, ROPE, TABLE, WINDOW
from harness.names.codes import FindingCode
from harness.names.coverage import coverage_of
from harness.names.recipes import check_widths
from harness.names.stages import HF
from harness.names.taps import BLOCK_POINTS, split_tap, tap_order
from harness.names.variant import Variant, parse_variant
from harness.pipeline.dimensions import dimensions_of
from harness.pipeline.early import check_length
from harness.record.record import Finding, Source
from harness.spec.key import KnownSpec
from harness.spec.model import Model, SpecRef
from harness.spec.recipes import check_recipes, rules_for
from harness.spec.rests import RESTS, rests_of, told
from harness.spec.route import RouteModel, route_of
from harness.spec.witness import Seen, unheard
from harness.store.cache import Cache
from harness.weights.configs import hf_config
from harness.weights.declared_sizes import refuse_other_sizes, refuse_sizes_that_cannot_load
from harness.weights.families import rope_boundary, sizes_of
from harness.weights.sources import Checkpoint, is_miniature, resolve
from harness.weights.tokenizer_files import load_tokenizer

_ATTENTION_POINTS = ("attn.q_rope", "attn.k_rope", "attn.probs", "cache.k", "cache.v")


def prepare(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    """Resolve a request. Raises UsageError for whatever is wrong with it.

    Where `rests` is asked for, the answer also has what it rests on, see `harness/spec/rests.py`.
    """
    request = Request.model_validate(payload)
    cache = Cache(Path(request.cache_root), say=print)
    seen, since = Seen(), time.time_ns()
    with seen.watching():
        spec = KnownSpec(SpecRef.of(request.spec_file, request.spec_variable))
        prepared = _prepared(request, spec, cache, report)
    found = prepared.model_dump(mode="json")
    return found | {RESTS: told(rests_of(seen, spec.code, since, cache.root))} if payload.get(RESTS) else found


def _prepared(request: Request, spec: KnownSpec, cache: Cache, report: Reporter) -> Prepared:
    model = spec.model
    report.progress(0, 3, "checkpoint")
    with spec.reading():
        _check_names(model)
        check_recipes(request.quantize, model)
    checkpoint = resolve(
        model,
        checkpoint=request.checkpoint,
        miniature=request.miniature,
        seed=request.seed,
        cache=cache,
        layers=request.layers,
    )
    built = _built(request, spec, checkpoint)
    report.progress(1, 3, "inputs")
    tokenizer = _tokenizer(checkpoint, built.dims.tokens)
    # What is run where nobody names an input is drawn for all seeded weights alike.
    of_prose = None if checkpoint.kind in ("miniature", "random") else tokenizer
    chosen = _inputs(request, model, tokenizer, of_prose, built)
    report.progress(2, 3, "weight names")
    of_keys = built.own.account_for_keys(checkpoint.folder, checkpoint.dropped)
    unloaded = next(filter(built.own.stops_loading, of_keys), None)
    if unloaded is not None:
        refuse_sizes_that_cannot_load(model, built.own.sizes(), built.published, unloaded.what)
    findings = [*spec.findings(), *of_keys, *_unreached(chosen, built.dims, built.shape), *_not_run(chosen)]
    found = _aligned(model, built)
    with spec.reading():
        parameters = built.own.parameters(checkpoint.folder)
        recipes = {recipe.name: rules_for(recipe, model, built.own) for recipe in request.quantize}
        converted = [recipe.name for recipe in request.quantize if not recipe.rules and built.own.converts(recipe.name)]
    key = _key(built, checkpoint, spec, cache)
    return Prepared(
        model=model.name,
        own_stage=route_of(model).stage,
        source=_source(checkpoint),
        checkpoint=str(checkpoint.folder),
        miniature=built.small,
        layers=built.layers,
        dimensions=built.dims,
        **found,
        **_steps(chosen.inputs, built.shape),
        to_draw=[_told(item) for item in chosen.to_draw],
        boundaries=built.boundaries,
        prefill=built.shape.prefill,
        kv_cache_len=built.shape.kv_cache_len,
        whole_up_to=request.whole_up_to,
        variant=built.variant,
        prefill_logits=built.shape.prefill_logits,
        coverage=coverage_of(model.coverage, built.variant),
        conversion_key=key,
        recipes=recipes,
        converted=converted,
        findings=findings,
        edges=chosen.edges,
        stop_tokens=stop_tokens(checkpoint.folder, tokenizer, built.dims.tokens),
        text=_text(request, tokenizer if request.text else of_prose, built) if request.reads_text else TextToRun(),
        rms_norms=built.own.rms_norms,
        parameters=parameters,
        tables=built.own.tables(),
        windows=built.own.windows(),
    )


@dataclass(frozen=True)
class _Built:
    """The model at the sizes of the run. published: the checkpoint's own config. own: the route's version."""

    small: bool
    layers: int | None
    published: Any
    own: RouteModel
    dims: Dimensions
    shape: DeviceShape
    variant: Variant

    @property
    def boundaries(self) -> dict[str, int]:
        """See `harness/names/boundaries.py`."""
        rope = rope_boundary(self.published.get_text_config())
        known = {WINDOW: self.dims.window, ROPE: rope, TABLE: self.own.longest, CACHE: self.shape.kv_cache_len}
        return {name: length for name, length in known.items() if length is not None}


@dataclass(frozen=True)
class _Chosen:
    """inputs: those that are whole. to_draw: those that the reference completes. not_run: edge -> why it is none.

    edges: ids of those that are.
    """

    inputs: list[TokenInput]
    to_draw: list[TokenInput]
    not_run: dict[str, str]
    edges: list[str]

    @property
    def longest(self) -> int:
        return max(len(item.tokens) + item.drawn for item in (*self.inputs, *self.to_draw))


def _built(request: Request, spec: KnownSpec, checkpoint: Checkpoint) -> _Built:
    model, route = spec.model, route_of(spec.model)
    small, published = is_miniature(model, checkpoint), hf_config(checkpoint.folder)
    layers = sizes_of(published).layers if small else request.layers
    with spec.reading():
        if not small and checkpoint.kind in ("folder", "hub"):
            refuse_other_sizes(model, checkpoint.name, published, layers)
        plain = route.model(model, miniature=small, layers=layers)
    dims = dimensions_of(model, plain, published)
    modes = [recipe.name for recipe in request.quantize if not recipe.rules and not recipe.own]
    check_widths(modes, plain.row_widths(), model.name)
    shape, variant = _device_shape(request, model, dims, plain.longest)
    with spec.reading():
        own = route.model(model, miniature=small, layers=layers, variant=variant)
    return _Built(small, layers, published, own, dims, shape, variant)


def _key(built: _Built, checkpoint: Checkpoint, spec: KnownSpec, cache: Cache) -> str:
    with unheard():  # every package that is looked through for it, every variable
        code = spec.content(cache)
        return built.own.conversion_key(checkpoint.sha256, built.shape.prefill, built.shape.kv_cache_len, code)


def _aligned(model: Model, built: _Built) -> dict[str, Any]:
    """The fields of `Prepared` that say where the points are."""
    route, dims = route_of(model), built.dims
    hf_map = hf_modules(route.names(model), fused_gate=dims.fused_gate)
    own_map = route.modules(model, fused_gate=dims.fused_gate)
    points, own_blocks = _points(built.own, hf_map, own_map), route.own_blocks(model)
    taps = tap_order(dims.blocks, points)
    return {
        "points": points,
        "own_blocks": own_blocks,
        "taps": taps,
        "modules": {
            tap: {HF: hf_map.describe(*split_tap(tap)), route.stage: own_map.describe(*split_tap(tap))} for tap in taps
        },
        "undeclared": [point for point in points if point not in own_map.points] if own_blocks else [],
    }


def _source(checkpoint: Checkpoint) -> Source:
    return Source(
        kind=checkpoint.kind,
        name=checkpoint.name,
        sha256=checkpoint.sha256,
        parameters=checkpoint.parameters,
        seed=checkpoint.seed,
    )


def _steps(inputs: list[TokenInput], shape: DeviceShape) -> dict[str, Any]:
    """The fields of `Prepared` that say what is run, and how a device runs it."""
    return {
        "inputs": [_told(item) for item in inputs],
        "schedules": {item.id: describe_schedule(schedule_of(item, shape)) for item in inputs},
    }


def _told(item: TokenInput) -> JobInput:
    return JobInput(
        id=item.id,
        tokens=list(item.tokens),
        decode_tail=item.decode_tail,
        earlier=list(item.earlier),
        text=item.text,
        drawn=item.drawn,
    )


def _check_names(model: Model) -> None:
    """A map that misnames modules misnames both versions alike, and would have others blamed. Raises UsageError."""
    from harness.audit.named_roles import wrong_names

    for wrong in wrong_names(model):
        raise UsageError(f"tensor_names of {model.name}: {wrong}; fix them in the model's spec file")


def _points(own: RouteModel, *maps: ModuleMap) -> list[str]:
    """The points that the model's blocks have. Without a rotary embedding there are no rotated queries and keys."""
    present = set(_ATTENTION_POINTS).union(*(map.points for map in maps))
    if not own.rotates:
        present -= {"attn.q_rope", "attn.k_rope"}
    return [point for point in BLOCK_POINTS if point in present]


def _device_shape(request: Request, model: Model, dims: Dimensions, longest: int) -> tuple[DeviceShape, Variant]:
    """The flatbuffer's sizes and variant: those to convert with, or those of the file that is given.

    longest: positions that the route's model computes at most.
    """
    declared = min(model.kv_cache_len, longest)
    if request.tflite is None:
        asked = request.variant.applied_to(_declared_variant(model))
        check_length(asked.kv_cache_len, longest, model.name)
        variant = asked.settled(model.prefill, declared)
        prefill = sorted(set(variant.prefill or model.prefill))
        cache = variant.kv_cache_len or declared
        if prefill[-1] > cache:
            raise UsageError(
                f"a prefill of {prefill[-1]} does not fit the KV cache of {cache} positions; give shorter lengths "
                "with --prefill, or a longer cache with --kv-cache-len"
            )
        return DeviceShape(prefill, cache, prefill_logits=model.prefill_logits), variant
    file = FlatbufferModel(Path(request.tflite))
    shape = device_shape(file, dims.blocks, dims.kv_heads, dims.head_dim, dims.vocab, model.name)
    check_width(file, dims.hidden, dims.vocab, model.name)
    own = Variant(shape.composites, shape.kv_layout, shape.mask_as_input, tuple(shape.prefill), shape.kv_cache_len)
    return shape, own.settled(model.prefill, declared)


def _declared_variant(model: Model) -> Variant:
    try:
        return parse_variant(model.variant)
    except UsageError as error:
        raise UsageError(f"{model.name}: {error}; fix the model's spec file") from None


def _inputs(request: Request, model: Model, tokenizer: Any, of_prose: Any, built: _Built) -> _Chosen:
    """tokenizer: of what a person gives. of_prose: of the inputs that Edge Parity makes; None where they are drawn."""
    dims, shape = built.dims, built.shape
    limit = shape.kv_cache_len
    chosen: list[TokenInput] = []
    if request.inputs_file:
        chosen += inputs_from_jsonl(Path(request.inputs_file), tokenizer, dims.tokens, limit)
    if request.prompts:
        from_prompts = chat_inputs if request.chat else inputs_from_prompts
        chosen += from_prompts(request.prompts, tokenizer, dims.tokens, limit)
    defaults = (
        []
        if chosen
        else default_inputs(
            prefill=shape.prefill,
            kv_cache_len=limit,
            vocab_size=dims.tokens,
            window=dims.window,
            tokenizer=of_prose,
            prompt=model.prompt,
            seed=request.seed,
            prefill_logits=shape.prefill_logits,
        )
    )
    drawn = to_draw(defaults, chosen, request.decode, limit)
    edges, not_run = _edges(request, of_prose, built)
    one = any(len(item.tokens) == 1 for item in (*defaults, *chosen))
    edges = [edge for edge in edges if len(edge.tokens) > 1 or not one]
    check_ids([*defaults, *chosen, *(item for item in drawn if not chosen), *edges])
    whole = [*defaults, *([] if request.decode else chosen), *edges]
    return _Chosen(whole, drawn, not_run, [edge.id for edge in edges])


def _edges(request: Request, tokenizer: Any, built: _Built) -> tuple[list[TokenInput], dict[str, str]]:
    if not request.edges:
        return [], {}
    return edge_inputs(built.shape.prefill, built.boundaries, built.dims.tokens, tokenizer, request.seed)


def _text(request: Request, tokenizer: Any, built: _Built) -> TextToRun:
    shape = built.shape
    found = text_sample(
        Path(request.text) if request.text else None,
        tokenizer,
        vocab_size=built.dims.tokens,
        prefill=shape.prefill,
        kv_cache_len=shape.kv_cache_len,
        prefill_logits=shape.prefill_logits,
    )
    windows = [
        JobInput(id=item.id, tokens=list(item.tokens), decode_tail=item.decode_tail, logits_only=True)
        for item in found.windows
    ]
    return TextToRun(name=found.name, sha256=found.sha256, windows=windows, why_not=found.why_not)


def _unreached(chosen: _Chosen, dims: Dimensions, shape: DeviceShape) -> list[Finding]:
    """A sliding window that no input outgrows is not tested, and a run that is silent about it would mislead."""
    longest = chosen.longest
    if dims.window is None or longest > dims.window:
        return []
    what = (
        f"the sliding window of {dims.window} positions is not tested: the longest input has {longest}; "
        f"give a longer one (the KV cache holds {shape.kv_cache_len})"
    )
    return [Finding(kind="numeric", code=FindingCode.WINDOW_NOT_TESTED, severity="warning", what=what)]


def _not_run(chosen: _Chosen) -> list[Finding]:
    """Edges of the context that were asked for, and that this file does not reach."""
    if not chosen.not_run:
        return []
    said = "; ".join(f"{name}: {why}" for name, why in chosen.not_run.items())
    what = f"edges of the context are not run: {said}; give a longer --kv-cache-len"
    return [Finding(kind="numeric", code=FindingCode.EDGES_NOT_RUN, severity="warning", what=what)]


def _tokenizer(checkpoint: Checkpoint, vocabulary: int) -> Any:
    return load_tokenizer(checkpoint.folder, vocabulary, checkpoint.name) if checkpoint.has_tokenizer else None
