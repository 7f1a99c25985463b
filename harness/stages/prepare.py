"""What happens before the first stage: spec, checkpoint, inputs and the audit of weight names.

In: what the command line asked for. Out: a `Prepared`, from which every stage's job is made.
These functions run in processes of their own, because a spec file imports the frameworks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from harness.align.modules import hf_modules, reauthored_modules
from harness.align.tflite import plan_signature
from harness.cache import Cache, key_of, sha256_of
from harness.checkpoints import Checkpoint, is_miniature, reauthored_config, resolve
from harness.configs import hf_config
from harness.convert import FLATBUFFER, conversion_key, convert
from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.signatures import DeviceShape, check_width, device_shape
from harness.flatbuffer.tap import write_tapped
from harness.inputs import (
    TokenInput,
    default_inputs,
    describe_schedule,
    inputs_from_jsonl,
    inputs_from_prompts,
    schedule,
)
from harness.record import Finding, Source
from harness.spec import GenerativeModel, SpecRef, load_spec
from harness.stages.job import Dimensions, JobInput
from harness.stages.report import Reporter, costs_only_this_stage
from harness.taps import BLOCK_POINTS, split_tap, tap_order

_ATTENTION_POINTS = ("attn.q_rope", "attn.k_rope", "attn.probs", "cache.k", "cache.v")
TAPPED = "tapped"


class Request(BaseModel):
    """What the command line asked for. Paths are absolute."""

    spec_file: str
    spec_variable: str
    checkpoint: str | None = None
    miniature: bool = False
    seed: int = 0
    tflite: str | None = None
    prompts: list[str] = Field(default_factory=list)
    inputs_file: str | None = None
    cache_root: str = ""


class Prepared(BaseModel):
    model: str
    source: Source
    checkpoint: str
    miniature: bool
    dimensions: Dimensions
    points: list[str]
    taps: list[str]
    modules: dict[str, dict[str, str | None]]
    inputs: list[JobInput]
    schedules: dict[str, str]
    prefill: list[int]
    kv_cache_len: int
    coverage: dict[str, float]
    conversion_key: str
    findings: list[Finding]


def prepare(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    """Resolve a request. Raises UsageError for whatever is wrong with it."""
    from harness.weights import account_for_keys

    request = Request.model_validate(payload)
    model = load_spec(SpecRef(Path(request.spec_file), request.spec_variable, {}))
    cache = Cache(Path(request.cache_root), say=print)
    report.progress(0, 3, "checkpoint")
    checkpoint = resolve(
        model, checkpoint=request.checkpoint, miniature=request.miniature, seed=request.seed, cache=cache
    )
    config = reauthored_config(model, checkpoint)
    dims = _dimensions(config, hf_config(checkpoint.folder))
    shape = _device_shape(request, model, dims, config)
    report.progress(1, 3, "inputs")
    inputs = _inputs(request, model, checkpoint, dims, shape)
    report.progress(2, 3, "weight names")
    findings = [*account_for_keys(model, checkpoint, config), *_unreached(inputs, dims, shape)]
    hf_map, own_map = hf_modules(model.tensor_names), reauthored_modules(model.tensor_names)
    points = [p for p in BLOCK_POINTS if p in hf_map.points | own_map.points | set(_ATTENTION_POINTS)]
    taps = tap_order(dims.blocks, points)
    prepared = Prepared(
        model=model.name,
        source=Source(
            kind=checkpoint.kind,
            name=checkpoint.name,
            sha256=checkpoint.sha256,
            parameters=checkpoint.parameters,
            seed=checkpoint.seed,
        ),
        checkpoint=str(checkpoint.folder),
        miniature=is_miniature(model, checkpoint),
        dimensions=dims,
        points=points,
        taps=taps,
        modules={
            tap: {"hf": hf_map.describe(*split_tap(tap)), "reauthored": own_map.describe(*split_tap(tap))}
            for tap in taps
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
        coverage=dict(model.coverage),
        conversion_key=conversion_key(
            checkpoint.sha256, config, model.model_class, model.tensor_names, shape.prefill, shape.kv_cache_len
        ),
        findings=findings,
    )
    return prepared.model_dump(mode="json")


def _dimensions(config: Any, published: Any) -> Dimensions:
    attention = config.block_config(0).attn_config
    text = published.get_text_config()
    uses_window = getattr(text, "use_sliding_window", True)
    return Dimensions(
        blocks=config.num_layers,
        heads=attention.num_heads,
        kv_heads=attention.num_query_groups,
        head_dim=attention.head_dim,
        hidden=config.embedding_dim,
        vocab=config.vocab_size,
        interleaved=not attention.qkv_transpose_before_split,
        window=(getattr(text, "sliding_window", None) or None) if uses_window else None,
    )


def _device_shape(request: Request, model: GenerativeModel, dims: Dimensions, config: Any) -> DeviceShape:
    if request.tflite is None:
        return DeviceShape(sorted(model.prefill), min(model.kv_cache_len, config.max_seq_len))
    file = FlatbufferModel(Path(request.tflite))
    shape = device_shape(file, dims.blocks, dims.kv_heads, dims.head_dim, dims.vocab, model.name)
    check_width(file, dims.hidden, dims.vocab, model.name)
    return shape


def _inputs(
    request: Request, model: GenerativeModel, checkpoint: Checkpoint, dims: Dimensions, shape: DeviceShape
) -> list[TokenInput]:
    tokenizer = _tokenizer(checkpoint)
    limit = shape.kv_cache_len
    chosen: list[TokenInput] = []
    if request.inputs_file:
        chosen += inputs_from_jsonl(Path(request.inputs_file), tokenizer, dims.vocab, limit)
    if request.prompts:
        chosen += inputs_from_prompts(request.prompts, tokenizer, dims.vocab, limit)
    return chosen or default_inputs(
        prefill=shape.prefill,
        kv_cache_len=limit,
        vocab_size=dims.vocab,
        window=dims.window,
        tokenizer=tokenizer,
        prompt=model.prompt,
        seed=request.seed,
        prefill_logits=shape.prefill_logits,
    )


def _unreached(inputs: list[TokenInput], dims: Dimensions, shape: DeviceShape) -> list[Finding]:
    """A sliding window that no input outgrows is not tested, and a run that is silent about it would mislead."""
    longest = max(len(item.tokens) for item in inputs)
    if dims.window is None or longest > dims.window:
        return []
    what = (
        f"the sliding window of {dims.window} positions is not tested: the longest input has {longest}; "
        f"give a longer one (the KV cache holds {shape.kv_cache_len})"
    )
    return [Finding(kind="numeric", severity="warning", what=what)]


def _tokenizer(checkpoint: Checkpoint) -> Any:
    if not checkpoint.has_tokenizer:
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)


def convert_model(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    """Convert, or find the conversion in the cache. Returns the flatbuffer's path and digest."""
    prepared = Prepared.model_validate(payload["prepared"])
    cache = Cache(Path(payload["cache_root"]), say=print)
    report.progress(0, 1, "looking in the cache")

    def build() -> Any:
        from harness.miniature import shrink
        from harness.weights import load_reauthored

        report.progress(0, 1, "converting")
        model = load_spec(SpecRef(Path(payload["spec_file"]), payload["spec_variable"], {}))
        config = shrink(model)[1] if prepared.miniature else model.config()
        with costs_only_this_stage():
            return load_reauthored(model, Path(prepared.checkpoint), config, prepared.kv_cache_len)

    known = cache.entry("conversions", prepared.conversion_key) is not None
    path = convert(cache, prepared.conversion_key, build, prepared.prefill, prepared.kv_cache_len)
    return {
        "flatbuffer": str(path),
        "sha256": cache.checksums("conversions", prepared.conversion_key)[FLATBUFFER],
        "cached": known,
    }


def tap_flatbuffer(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    """Align a flatbuffer with the taps and write its tapped copy. Cached by the file's content and our own code."""
    prepared = Prepared.model_validate(payload["prepared"])
    source = Path(payload["flatbuffer"])
    report.progress(0, 2, "reading")
    digest = payload.get("sha256") or sha256_of(source)
    cache = Cache(Path(payload["cache_root"]), say=print)
    code = {name: sha256_of(Path(__file__).parent.parent / name) for name in _ALIGNMENT_CODE}
    dims = prepared.dimensions.model_dump()
    key = key_of({"flatbuffer": digest, "dimensions": dims, "points": prepared.points, "code": code})

    def make(folder: Path) -> None:
        report.progress(1, 2, "writing the tapped copy")
        _write_tapped_and_plan(source, folder, prepared)

    folder = cache.build(TAPPED, key, make)
    return {"tapped": str(folder / FLATBUFFER), "plan": str(folder / "plan.json"), "sha256": digest}


_ALIGNMENT_CODE = (
    "taps.py",
    "align/tflite.py",
    "align/layout.py",
    "flatbuffer/reader.py",
    "flatbuffer/tap.py",
    "stages/tflite.py",
)


def _write_tapped_and_plan(source: Path, folder: Path, prepared: Prepared) -> None:
    from harness.stages.tflite import TAP_PREFIX

    file = FlatbufferModel(source)
    wanted = [name for name in file.signatures if name == "decode" or name.startswith("prefill")]
    dims = prepared.dimensions
    plans = {
        name: plan_signature(file, file.signatures[name], dims.layout, dims.blocks, tuple(prepared.points))
        for name in wanted
    }
    outputs = {
        name: {f"{TAP_PREFIX}{item.tensor}": item.tensor for item in plan.sources.values() if not item.inner}
        for name, plan in plans.items()
    }
    write_tapped(source, folder / FLATBUFFER, outputs)
    content = {
        "sources": {name: {tap: item.as_dict() for tap, item in plan.sources.items()} for name, plan in plans.items()},
        "missing": {name: plan.missing for name, plan in plans.items()},
    }
    (folder / "plan.json").write_text(json.dumps(content))
    if not any(plan.sources for plan in plans.values()):
        raise UsageError(
            f"{source}: no tensor could be aligned; its tensor names carry no litert-torch module paths, "
            "convert it with litert-torch's Generative API"
        )
