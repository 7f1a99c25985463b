"""What a language model's flatbuffer can take: its prefill sizes, the length of its KV cache.

In: a `FlatbufferModel`. Out: a `DeviceShape`, or a UsageError that says why it is not this model's file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel, Operator, Signature
from harness.names.taps import LOGITS

DECODE = "decode"
PREFILL = "prefill_"
_CACHE = "kv_cache_"
_PREFILL_OF = re.compile(r"prefill_([1-9][0-9]*)", re.ASCII)
_NARROW = frozenset({"INT8", "UINT8", "INT4", "UINT4", "INT2", "INT16", "FLOAT16", "BFLOAT16"})


@dataclass(frozen=True)
class DeviceShape:
    """prefill: lengths of the prefill signatures, ascending. kv_cache_len: positions of the KV cache.

    prefill_logits: whether prefill gives logits too, which a file that ships need not.
    kv_layout, mask_as_input: as in `harness/names/variant.py`. composites: whether attention or a norm is one.
    """

    prefill: list[int]
    kv_cache_len: int
    prefill_logits: bool = True
    kv_layout: str = "default"
    mask_as_input: bool = False
    composites: bool = True


def prefill_length(signature: str) -> int | None:
    """The tokens that a signature called `prefill_N` takes; None for every other name, `prefill_8_lora` say."""
    found = _PREFILL_OF.fullmatch(signature)
    return int(found.group(1)) if found else None


def can_run(signature: str) -> bool:
    """Whether it has the name of one that takes a text through the model: `decode` or `prefill_N`."""
    return signature == DECODE or prefill_length(signature) is not None


def device_shape(
    file: FlatbufferModel, blocks: int, kv_heads: int, head_dim: int, vocab: int, model: str
) -> DeviceShape:
    """Read the sizes, and check that the file can be `model`'s.

    Raises UsageError when a signature is absent, or when layers, heads or vocabulary are another model's.
    """
    _check_variables(file)
    decode = file.signatures.get(DECODE)
    prefill = {name: entry for name, entry in file.signatures.items() if prefill_length(name) is not None}
    if decode is None or not prefill:
        found = ", ".join(sorted(file.signatures)) or "none"
        raise UsageError(
            f"{file.path} has the signatures {found}; a language model needs 'decode' and 'prefill_N', "
            "as litert-torch's Generative API and its export_hf convert them"
        )
    run = {DECODE: decode, **prefill}
    for name, entry in run.items():
        _check_inputs(file, name, entry)
    layers = sum(1 for name in decode.inputs if name.startswith("kv_cache_k_"))
    if layers != blocks:
        raise UsageError(
            f"{file.path} has a KV cache of {layers} layers and {model} has {blocks}; give the flatbuffer of {model}"
        )
    for name, entry in run.items():
        _check_caches(file, name, entry, blocks)
    _check_logits(file, run, vocab)
    length, layout = cache_of(file, decode, kv_heads, head_dim, model)
    _check_vocabulary(file, decode, vocab, model)
    _check_float_activations(file, run)
    return DeviceShape(
        sorted(size for name in prefill if (size := prefill_length(name)) is not None),
        length,
        prefill_logits=all(LOGITS in entry.outputs for entry in prefill.values()),
        kv_layout=layout,
        mask_as_input="mask" in decode.inputs,
        composites=any(op.composite for op in file.subgraph(decode.subgraph).operators),
    )


def _check_variables(file: FlatbufferModel) -> None:
    """A file whose weights are variables that nothing sets has none: it gives NaN on XNNPACK, and fails elsewhere."""
    graphs = [file.subgraph(number) for number in range(file.subgraph_count)]
    kinds = {op.kind for graph in graphs for op in graph.operators}
    if "READ_VARIABLE" not in kinds or "ASSIGN_VARIABLE" in kinds:
        return
    lost = [graph.tensors[op.outputs[0]].name for graph in graphs for op in graph.operators if op.kind == "VAR_HANDLE"]
    raise UsageError(
        f"{file.path} has no weights: it reads {len(lost)} variables ({', '.join(lost[:2])}, ...) that nothing in it "
        "sets; TensorFlow does not see the variables of a Keras 3 model: hold them in a tf.Module, or model.export"
    )


def _check_inputs(file: FlatbufferModel, name: str, entry: Signature) -> None:
    lacking = [wanted for wanted in ("tokens", "input_pos") if wanted not in entry.inputs]
    if "embeddings" in entry.inputs and lacking:
        raise UsageError(
            f"{file.path} takes embeddings in place of tokens ({name}): its embedding is a file of its own, which is "
            "not read; export it without externalize_embedder"
        )
    if lacking:
        found = ", ".join(sorted(entry.inputs)) or "none"
        raise UsageError(
            f"{file.path}: {name} lacks the input '{lacking[0]}' (it has {found}); give a language model's flatbuffer "
            "as litert-torch converts it"
        )


def _check_caches(file: FlatbufferModel, name: str, entry: Signature, blocks: int) -> None:
    """Each step takes the whole KV cache and gives it on to the next one."""
    tensors = file.subgraph(entry.subgraph).tensors
    known = [f"{_CACHE}{side}_{block}" for side in ("k", "v") for block in range(blocks)]
    for cache in dict.fromkeys([*known, *(key for key in entry.inputs if key.startswith(_CACHE))]):
        for side, held in (("input", entry.inputs), ("output", entry.outputs)):
            if cache not in held:
                raise UsageError(
                    f"{file.path}: {name} lacks the {side} '{cache}', and a step takes the whole KV cache and gives it "
                    "on; convert it again"
                )
        taken, given = (tensors[held[cache]] for held in (entry.inputs, entry.outputs))
        if (taken.shape, taken.dtype) != (given.shape, given.dtype):
            raise UsageError(
                f"{file.path}: {name} takes '{cache}' as {taken.dtype} {list(taken.shape)} and gives it as "
                f"{given.dtype} {list(given.shape)}; convert it again"
            )


def cache_of(file: FlatbufferModel, decode: Signature, kv_heads: int, head_dim: int, model: str) -> tuple[int, str]:
    """The KV cache's length and layout, told by V: its two layouts share no shape unless all three sizes are equal."""
    tensors = file.subgraph(decode.subgraph).tensors
    shape = tensors[decode.inputs["kv_cache_v_0"]].shape
    if len(shape) == 4 and shape[2:] == (kv_heads, head_dim):
        return shape[1], "default"
    if len(shape) == 4 and shape[1:3] == (kv_heads, head_dim):
        return shape[3], "transposed"
    text = "x".join(map(str, shape))
    raise UsageError(
        f"{file.path} has a KV cache of {text} and {model} needs 1 x length x {kv_heads} x {head_dim}; "
        f"give the flatbuffer of {model}"
    )


def _check_float_activations(file: FlatbufferModel, signatures: Mapping[str, Signature]) -> None:
    """What goes from operator to operator is float32, and so is what goes in and out beside tokens and positions."""
    for name, entry in signatures.items():
        graph = file.subgraph(entry.subgraph)
        caches = {key: index for key, index in entry.inputs.items() if key.startswith(_CACHE)}
        outside = {**caches, **{key: index for key, index in entry.outputs.items() if key == LOGITS}}
        wrong = next((key for key, index in outside.items() if graph.tensors[index].dtype != "FLOAT32"), None)
        readers = graph.consumers()
        made = next(
            (
                f"{op.kind} gives {graph.tensors[index].dtype}"
                for op in graph.operators
                for index in op.outputs
                if graph.tensors[index].dtype in _NARROW and not _looked_up(op, readers.get(index, []))
            ),
            None,
        )
        if wrong is not None or made is not None:
            what = made or f"'{wrong}' is {graph.tensors[outside[str(wrong)]].dtype}"
            raise UsageError(
                f"{file.path}: {name} has integer activations ({what}), which are not judged yet; give a file whose "
                "weights alone are quantised, dynamically or not"
            )


def _looked_up(op: Operator, readers: Sequence[Operator]) -> bool:
    """Whether it only takes rows of a narrow embedding, which are dequantised at once."""
    return op.kind in ("GATHER", "EMBEDDING_LOOKUP") and {reader.kind for reader in readers} == {"DEQUANTIZE"}


def is_quantised(file: FlatbufferModel) -> bool:
    """Whether a language model's file reads fewer bits than float32 anywhere in decode."""
    if DECODE not in file.signatures:
        return False
    graph = file.subgraph(file.signatures[DECODE].subgraph)
    read = (index for op in graph.operators for index in op.inputs if index >= 0)
    return any(graph.tensors[index].dtype in _NARROW for index in read)


def _check_logits(file: FlatbufferModel, signatures: Mapping[str, Signature], vocab: int) -> None:
    """Decode gives logits, and no signature gives them by another name: what is not found is not compared."""
    for name, entry in signatures.items():
        if LOGITS in entry.outputs:
            continue
        tensors = file.subgraph(entry.subgraph).tensors
        alike = [key for key, index in entry.outputs.items() if tensors[index].shape[-1:] == (vocab,)]
        if alike:
            raise UsageError(
                f"{file.path}: {name} has no output 'logits', and its output '{alike[0]}' has one number per token of "
                "the vocabulary; name it 'logits', as litert-torch's Generative API does"
            )
        if name == DECODE:
            found = ", ".join(sorted(key for key in entry.outputs if not key.startswith(_CACHE))) or "the KV cache only"
            raise UsageError(
                f"{file.path}: decode has no output 'logits' (it has {found}), so what the model says cannot be "
                "compared; convert it with litert-torch's Generative API"
            )


def _check_vocabulary(file: FlatbufferModel, decode: Signature, vocab: int, model: str) -> None:
    size = file.subgraph(decode.subgraph).tensors[decode.outputs[LOGITS]].shape[-1]
    if size != vocab:
        raise UsageError(
            f"{file.path} gives logits over {size} tokens and {model} has {vocab}; give the flatbuffer of {model}"
        )


def check_width(file: FlatbufferModel, hidden: int, vocab: int, model: str) -> None:
    """The matrix that gives the logits is vocabulary x hidden: its width tells models apart that share all cache sizes.

    A file without such a matrix passes. Raises UsageError.
    """
    graph = file.subgraph(file.signatures[DECODE].subgraph)
    widths = {tensor.shape[1] for tensor in graph.tensors if len(tensor.shape) == 2 and tensor.shape[0] == vocab}
    if widths and hidden not in widths:
        found = ", ".join(map(str, sorted(widths)))
        raise UsageError(
            f"{file.path} has a hidden size of {found} and {model} has {hidden}; give the flatbuffer of {model}"
        )
