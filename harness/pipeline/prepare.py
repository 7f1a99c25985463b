"""What happens before the first stage: spec, checkpoint, inputs and the audit of weight names.

In: what the command line asked for. Out: a `Prepared`, from which every stage's job is made.
These functions run in processes of their own, because a spec file imports the frameworks.
"""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.align.modules import ModuleMap, hf_modules, own_modules
from harness.audit.honoured import published_windows
from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.signatures import DeviceShape, check_width, device_shape
from harness.inputs.tokens import (
    TokenInput,
    default_inputs,
    describe_schedule,
    inputs_from_jsonl,
    inputs_from_prompts,
    schedule,
)
from harness.jobs.job import Dimensions, JobInput
from harness.jobs.prepared import Prepared, Request
from harness.jobs.reporter import Reporter
from harness.names.codes import FindingCode
from harness.names.coverage import coverage_of
from harness.names.recipes import check_widths
from harness.names.stages import FLOAT, HF, REAUTHORED
from harness.names.taps import BLOCK_POINTS, split_tap, tap_order
from harness.names.variant import Variant, parse_variant
from harness.record.record import Finding, Source
from harness.spec.key import KnownSpec
from harness.spec.model import GenerativeModel, SpecRef
from harness.spec.rests import RESTS, rests_of, told
from harness.spec.witness import Seen, unheard
from harness.stages.litert_torch.config import reauthored_config
from harness.stages.litert_torch.convert import conversion_key
from harness.stages.litert_torch.structure import position_tables, windows_of
from harness.store.cache import Cache
from harness.weights.configs import built_model, hf_config, without_initial_weights
from harness.weights.declared_sizes import refuse_other_sizes, refuse_sizes_that_cannot_load
from harness.weights.families import interleaves_qkv, sizes_of
from harness.weights.parameters import ParameterSource
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
    from harness.stages.litert_torch.loading import account_for_keys, stops_loading

    model = spec.model
    report.progress(0, 3, "checkpoint")
    with spec.reading():
        _check_names(model)
    checkpoint = resolve(
        model,
        checkpoint=request.checkpoint,
        miniature=request.miniature,
        seed=request.seed,
        cache=cache,
        layers=request.layers,
    )
    small, published = is_miniature(model, checkpoint), hf_config(checkpoint.folder)
    layers = sizes_of(published).layers if small else request.layers
    with spec.reading():
        if not small and checkpoint.kind in ("folder", "hub"):
            refuse_other_sizes(model, checkpoint.name, published, layers)
        plain = reauthored_config(model, miniature=small, layers=layers)
    dims = dimensions_of(model, plain, published)
    check_widths(request.quantize, row_widths(plain), model.name)
    shape, variant = _device_shape(request, model, dims, plain)
    with spec.reading():
        config = reauthored_config(model, miniature=small, layers=layers, hlfb=variant.hlfb)
    report.progress(1, 3, "inputs")
    inputs = _inputs(request, model, checkpoint, dims, shape)
    report.progress(2, 3, "weight names")
    of_keys = account_for_keys(model, checkpoint.folder, config, checkpoint.dropped)
    unloaded = next(filter(stops_loading, of_keys), None)
    if unloaded is not None:
        refuse_sizes_that_cannot_load(model.name, config, published, unloaded.what)
    findings = [*spec.findings(), *of_keys, *_unreached(inputs, dims, shape)]
    hf_map = hf_modules(model.tensor_names, fused_gate=dims.fused_gate)
    own_map = own_modules(model, fused_gate=dims.fused_gate)
    points = _points(config, hf_map, own_map)
    taps = tap_order(dims.blocks, points)
    with spec.reading():
        parameters = parameters_of(model, checkpoint, config)
    with unheard():  # every package that is looked through for it, every variable
        key_for = partial(
            conversion_key,
            checkpoint.sha256,
            config,
            model.model_class,
            model.load_weights or model.tensor_names,
            shape.prefill,
            shape.kv_cache_len,
            variant,
            code=spec.content(cache),
        )
        keys = {recipe: key_for(recipe=recipe) for recipe in (FLOAT, *request.quantize)}
    return Prepared(
        model=model.name,
        source=Source(
            kind=checkpoint.kind,
            name=checkpoint.name,
            sha256=checkpoint.sha256,
            parameters=checkpoint.parameters,
            seed=checkpoint.seed,
        ),
        checkpoint=str(checkpoint.folder),
        miniature=small,
        layers=layers,
        dimensions=dims,
        points=points,
        own_blocks=bool(model.alignment),
        taps=taps,
        modules={
            tap: {HF: hf_map.describe(*split_tap(tap)), REAUTHORED: own_map.describe(*split_tap(tap))} for tap in taps
        },
        inputs=[
            JobInput(id=item.id, tokens=list(item.tokens), decode_tail=item.decode_tail, text=item.text)
            for item in inputs
        ],
        schedules={
            item.id: describe_schedule(schedule(len(item.tokens), item.decode_tail, shape.prefill, shape.kv_cache_len))
            for item in inputs
        },
        prefill=shape.prefill,
        kv_cache_len=shape.kv_cache_len,
        variant=variant,
        undeclared=[point for point in points if point not in own_map.points] if model.alignment else [],
        prefill_logits=shape.prefill_logits,
        coverage=coverage_of(model.coverage, variant),
        conversion_key=keys[FLOAT],
        quantized_keys={recipe: keys[recipe] for recipe in request.quantize},
        findings=findings,
        # Blocks of a user's own may put their norms anywhere.
        rms_norms=_rms_norms(plain) and not model.alignment,
        parameters=parameters,
        tables=position_tables(config),
        windows=windows_of(config),
    )


def _check_names(model: GenerativeModel) -> None:
    """A map that misnames modules misnames both versions alike, and would have others blamed. Raises UsageError."""
    from harness.audit.named_roles import wrong_names

    for wrong in wrong_names(model):
        raise UsageError(f"tensor_names of {model.name}: {wrong}; fix them in the model's spec file")


def _points(config: Any, *maps: ModuleMap) -> list[str]:
    """The points that the model's blocks have. Without a rotary embedding there are no rotated queries and keys."""
    present = set(_ATTENTION_POINTS).union(*(map.points for map in maps))
    if config.block_config(0).attn_config.use_alibi:
        present -= {"attn.q_rope", "attn.k_rope"}
    return [point for point in BLOCK_POINTS if point in present]


def dimensions_of(model: GenerativeModel, config: Any, published: Any) -> Dimensions:
    """The sizes of both versions; config: of the re-authored model, published: as transformers reads it."""
    from litert_torch.generative.layers.model_config import ActivationType, FeedForwardType

    attention, feed_forward = config.block_config(0).attn_config, config.block_config(0).ff_config
    text = published.get_text_config()
    glu = feed_forward.activation.type in (ActivationType.SILU_GLU, ActivationType.GE_GLU)
    layers = [config.block_config(block).attn_config for block in range(config.num_layers)]
    layer_heads = [(layer.num_heads, layer.num_query_groups) for layer in layers]
    theirs = [sizes_of(text, block) for block in range(sizes_of(text).layers)]
    hf_heads = [(layer.heads, layer.kv_heads) for layer in theirs]
    same = hf_heads[: len(layer_heads)] == layer_heads[: len(hf_heads)]
    return Dimensions(
        hf_heads=[] if same else hf_heads,
        hf_head_dim=_unless(theirs[0].head_dim, attention.head_dim),
        hf_vocab=_unless(theirs[0].vocab, config.vocab_size),
        blocks=config.num_layers,
        heads=attention.num_heads,
        kv_heads=attention.num_query_groups,
        head_dim=attention.head_dim,
        hidden=config.embedding_dim,
        vocab=config.vocab_size,
        interleaved=not attention.qkv_transpose_before_split,
        hf_interleaved=interleaves_qkv(text),
        fused_gate=glu and feed_forward.type == FeedForwardType.SEQUENTIAL,
        layer_heads=layer_heads if len(set(layer_heads)) > 1 else [],
        window=window_of(model, published, config.max_seq_len),
    )


def _unless(value: int, other: int) -> int | None:
    return None if value == other else value


def _rms_norms(config: Any) -> bool:
    from litert_torch.generative.layers.model_config import NormalizationType

    norms = [config.block_config(block).pre_attention_norm_config for block in range(config.num_layers)]
    return all(norm.type == NormalizationType.RMS_NORM for norm in [*norms, config.final_norm_config])


def window_of(model: GenerativeModel, published: Any, reach: int) -> int | None:
    """The published window, if its class has one and the re-authored model takes inputs that outgrow it."""
    text = published.get_text_config()
    window = sizes_of(text).window
    if not 0 < window < reach or not getattr(text, "use_sliding_window", True):
        return None
    try:
        found = published_windows(replace(model, published=lambda: copy.deepcopy(text)))
    except Exception:  # the audit says why; inputs that outgrow a window do no harm where there is none
        return window
    return window if found is None or any(found) else None


def row_widths(config: Any) -> dict[str, int]:
    """How long the rows of the re-authored model's weights are, by what they take."""
    widths = {"the hidden size": config.embedding_dim}
    for number in range(config.num_layers):
        block = config.block_config(number)
        widths |= {
            f"the MLP's size in block {number}": block.ff_config.intermediate_size,
            f"the attention's width in block {number}": block.attn_config.num_heads * block.attn_config.head_dim,
        }
    return widths


def _device_shape(
    request: Request, model: GenerativeModel, dims: Dimensions, config: Any
) -> tuple[DeviceShape, Variant]:
    """The flatbuffer's sizes and variant: those to convert with, or those of the file that is given."""
    declared = min(model.kv_cache_len, config.max_seq_len)
    if request.tflite is None:
        asked = request.variant.applied_to(_declared_variant(model))
        if asked.kv_cache_len > config.max_seq_len:
            raise UsageError(
                f"a KV cache of {asked.kv_cache_len} positions is longer than {model.name} computes, whose max_seq_len "
                f"is {config.max_seq_len}; give a shorter --kv-cache-len"
            )
        variant = asked.settled(model.prefill, declared)
        prefill = sorted(set(variant.prefill or model.prefill))
        cache = variant.kv_cache_len or declared
        if prefill[-1] > cache:
            raise UsageError(
                f"a prefill of {prefill[-1]} does not fit the KV cache of {cache} positions; give shorter lengths "
                "with --prefill, or a longer cache with --kv-cache-len"
            )
        return DeviceShape(prefill, cache), variant
    file = FlatbufferModel(Path(request.tflite))
    shape = device_shape(file, dims.blocks, dims.kv_heads, dims.head_dim, dims.vocab, model.name)
    check_width(file, dims.hidden, dims.vocab, model.name)
    own = Variant(shape.composites, shape.kv_layout, shape.mask_as_input, tuple(shape.prefill), shape.kv_cache_len)
    return shape, own.settled(model.prefill, declared)


def _declared_variant(model: GenerativeModel) -> Variant:
    try:
        return parse_variant(model.variant)
    except UsageError as error:
        raise UsageError(f"{model.name}: {error}; fix the model's spec file") from None


def _inputs(
    request: Request, model: GenerativeModel, checkpoint: Checkpoint, dims: Dimensions, shape: DeviceShape
) -> list[TokenInput]:
    tokenizer = _tokenizer(checkpoint, dims.tokens)
    limit = shape.kv_cache_len
    chosen: list[TokenInput] = []
    if request.inputs_file:
        chosen += inputs_from_jsonl(Path(request.inputs_file), tokenizer, dims.tokens, limit)
    if request.prompts:
        chosen += inputs_from_prompts(request.prompts, tokenizer, dims.tokens, limit)
    return chosen or default_inputs(
        prefill=shape.prefill,
        kv_cache_len=limit,
        vocab_size=dims.tokens,
        window=dims.window,
        tokenizer=tokenizer,
        prompt=model.prompt,
        seed=request.seed,
        prefill_logits=shape.prefill_logits,
    )


def parameters_of(model: GenerativeModel, checkpoint: Checkpoint, config: Any) -> list[ParameterSource]:
    """Which tensors of the checkpoint each parameter of the re-authored model is made of."""
    import torch

    from harness.stages.litert_torch.loading import sources_of

    with torch.device("meta"), without_initial_weights():
        own = built_model(model, config).state_dict()
    return sources_of(model, config, checkpoint.folder, own)


def _unreached(inputs: list[TokenInput], dims: Dimensions, shape: DeviceShape) -> list[Finding]:
    """A sliding window that no input outgrows is not tested, and a run that is silent about it would mislead."""
    longest = max(len(item.tokens) for item in inputs)
    if dims.window is None or longest > dims.window:
        return []
    what = (
        f"the sliding window of {dims.window} positions is not tested: the longest input has {longest}; "
        f"give a longer one (the KV cache holds {shape.kv_cache_len})"
    )
    return [Finding(kind="numeric", code=FindingCode.WINDOW_NOT_TESTED, severity="warning", what=what)]


def _tokenizer(checkpoint: Checkpoint, vocabulary: int) -> Any:
    return load_tokenizer(checkpoint.folder, vocabulary, checkpoint.name) if checkpoint.has_tokenizer else None
