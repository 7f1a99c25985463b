"""Faults of quantised files, and of runtimes that do something else with a right one.

A wrong file is read by the fake-quantised model and by the runtime alike: whose fault it is, the audit of the recipe
says, and the runtime must not be accused. A wrong runtime is made by giving it a wrong file, and the fake-quantised
model the right one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.bench.mistake import InQuantised, Mistake, OtherRules, ReadByKernels
from harness.bench.narrow_weight import EVERY, Array, Bytes, NarrowWeight
from harness.explain.functions import to_bfloat16
from harness.names.codes import FindingCode
from harness.names.recipes import Rules
from harness.names.stages import BUILTIN, FAKEQUANT, FAKEQUANT_BUILTIN, REAUTHORED, XNNPACK, named

FP16, WEIGHT_ONLY, INT8, INT4 = "fp16", "weight_only_int8", "dynamic_int8", "dynamic_int4_block32"
SCALE, WEIGHT = FindingCode.RECIPE_SCALE_WRONG, FindingCode.RECIPE_WEIGHT_WRONG
LACKING, DIFFERS = FindingCode.RECIPE_NOT_APPLIED, FindingCode.RECIPE_DIFFERS
NOT_FINITE, KEPT = FindingCode.FILE_NOT_FINITE, FindingCode.RECIPE_FLOAT_DIFFERS
EMBED, HEAD = "embed", "logits"
_TIED = ("qwen2_5", "qwen3", "smollm2")
Change = Callable[[NarrowWeight], Any]


def scale_times(factor: float, signatures: slice = EVERY, at: int = 5) -> Change:
    def change(scales: Array) -> None:
        scales.reshape(-1)[at] *= factor

    return lambda weight: weight.scales(change, signatures)


def scale_is(value: float) -> Change:
    def change(scales: Array) -> None:
        scales.reshape(-1)[5] = value

    return lambda weight: weight.scales(change)


def every_scale(change: Callable[[Array], Array]) -> Change:
    return lambda weight: weight.scales(lambda scales: np.copyto(scales, change(scales)))


def swap_two(weight: NarrowWeight) -> None:
    def change(scales: Array) -> None:
        flat = scales.reshape(-1)
        flat[[2, 9]] = flat[[9, 2]]

    weight.scales(change)


def scale_bit(bit: int) -> Change:
    """One bit of one float32 scale turned over."""

    def change(scales: Array) -> None:
        scales.reshape(-1).view(np.uint32)[7] ^= np.uint32(1 << bit)

    return lambda weight: weight.scales(change)


def next_scales(scales: Array) -> Array:
    """Each channel with its neighbour's scale."""
    return np.roll(scales, 1, axis=0)


def one_zero_point(weight: NarrowWeight) -> None:
    def change(points: Array) -> None:
        points[7] = 1

    weight.zero_points(change)


def swap_nibbles(weight: NarrowWeight) -> None:
    weight.numbers(lambda packed: ((packed >> 4) | (packed << 4)).astype(np.uint8))


def misread_blocks(weight: NarrowWeight) -> None:
    """The file says 64 where its scales are those of 32, of which every other is left."""

    def halve(scales: Array) -> None:
        flat = scales.reshape(-1)
        flat[: flat.size // 2] = flat[::2].copy()

    weight.scales(halve)
    for (graph, _), tensor in zip(weight.places, weight.tensors, strict=True):
        details = tensor.quantization.details
        details.blockSize = 64
        holder = weight.work.model.subgraphs[graph].tensors[details.scales]
        holder.shape = [*holder.shape[:-1], holder.shape[-1] // 2]
        number = weight.work.model.buffers[holder.buffer]
        number.data = number.data[: len(number.data) // 2]


def saturate(weight: NarrowWeight) -> None:
    """A channel's scale is a quarter of what it needs, and its numbers are cut off there."""
    scale_times(0.25)(weight)

    def change(whole: Array) -> Array:
        wide = whole.astype(np.int32)
        wide[5] = np.clip(wide[5] * 4, *weight.held.ends)
        return wide.astype(whole.dtype)

    weight.whole(change)


def of_layer(layer: str) -> Change:
    """The numbers and scales of another layer's weight."""

    def change(weight: NarrowWeight) -> None:
        other = weight.other(layer)
        weight.whole(lambda _: other.held.whole)
        weight.scales(lambda scales: np.copyto(scales, other.held.scale.reshape(scales.shape)))

    return change


def one_number(weight: NarrowWeight) -> None:
    def change(packed: Bytes) -> Bytes:
        packed[1000] = np.uint8((int(packed[1000]) + 1) % 256)
        return packed

    weight.numbers(change)


def one_step(whole: Array) -> Array:
    """A number in the middle of its range, one step up."""
    flat = whole.reshape(-1)
    at = int(np.abs(flat.astype(np.int32)).argmin())
    flat[at] += 1
    return whole


def row_turned(whole: Array) -> Array:
    """The numbers of a row, turned by three."""
    whole[11] = np.roll(whole[11], 3)
    return whole


def fewer_steps(whole: Array) -> Array:
    """Numbers on every 16th step: 4 bits in 8."""
    return (np.clip(np.rint(whole / 16.0), -8, 7) * 16).astype(whole.dtype)


def one_down(whole: Array) -> Array:
    """Rounded down where rounding to the nearest would have gone up: every other number, one step lower."""
    wide = whole.astype(np.int32)
    wide[:, ::2] -= 1
    return np.clip(wide, -128, 127).astype(whole.dtype)


def overflow(whole: Array) -> Array:
    """What a number beyond 65,504 becomes in float16."""
    whole[3, 5] = np.inf
    return whole


def float16_bit(whole: Array) -> Array:
    """The lowest bit of the exponent of one number turned over."""
    whole.view(np.uint16)[3, 5] ^= np.uint16(1 << 10)
    return whole


def through_bfloat16(whole: Array) -> Array:
    """Rounded to bfloat16 before it was rounded to float16."""
    return to_bfloat16(whole.astype(np.float32)).astype(whole.dtype)


def exchanged(one: int, other: int) -> Callable[[Array], Array]:
    """Two rows of numbers in each other's place."""

    def change(whole: Array) -> Array:
        whole[[one, other]] = whole[[other, one]]
        return whole

    return change


def axis(number: int) -> Change:
    """Scales along another axis."""

    def change(weight: NarrowWeight) -> None:
        for tensor in weight.tensors:
            tensor.quantization.quantizedDimension = number

    return change


def no_scales(weight: NarrowWeight) -> None:
    for tensor in weight.tensors:
        tensor.quantization = None


def whole(change: Callable[[Array], Array]) -> Change:
    return lambda weight: weight.whole(change)


def bias(change: Callable[[Array], Array]) -> Change:
    return lambda weight: weight.bias(change)


def left_out(kind: str, regex: str = ".*") -> Callable[[Rules], Rules]:
    """A rule after all others that leaves operators as they are."""
    rule = {"regex": regex, "operation": kind, "algorithm_key": "no_quantize", "op_config": {}}
    return lambda rules: [*rules, rule]


def with_weights(**values: Any) -> Callable[[Rules], Rules]:
    """The same rules with something else in how weights are held."""

    def change(rules: Rules) -> Rules:
        found = []
        for rule in rules:
            config = dict(rule.get("op_config") or {})
            weights = dict(config.get("weight_tensor_config") or {}) | values
            found.append({**rule, "op_config": {**config, "weight_tensor_config": weights}})
        return found

    return change


def price(recipe: str) -> str:
    return f"{REAUTHORED}->{named(FAKEQUANT, recipe)}"


def places(model: str, layer: str) -> tuple[str, ...]:
    """Where a fault of a layer may show: a head that is tied is the embedding."""
    return (EMBED, HEAD) if model in _TIED and layer == HEAD else (layer,)


def file(name: str, model: str, recipe: str, what: str, layer: str, change: Change, *codes: str) -> Mistake:
    site = InQuantised(recipe, layer, change)
    return Mistake(name, "quantised file", model, f"{recipe}: {what}", site, price(recipe), places(model, layer), codes)


def rules(name: str, model: str, recipe: str, what: str, layer: str, change: Any, *codes: str) -> Mistake:
    site = OtherRules(recipe, change)
    return Mistake(name, "quantised file", model, f"{recipe}: {what}", site, price(recipe), (layer,), codes)


def kernels(
    name: str, model: str, recipe: str, what: str, layer: str, change: Change, runtime: str = XNNPACK
) -> Mistake:
    fake = FAKEQUANT if runtime == XNNPACK else FAKEQUANT_BUILTIN
    hop = f"{named(fake, recipe)}->{named(runtime, recipe)}"
    words = "XNNPACK" if runtime == XNNPACK else "builtin"
    site = ReadByKernels(recipe, layer, change, runtime)
    return Mistake(name, "quantised runtime", model, f"{recipe}, {words}: {what}", site, hop, places(model, layer))


Q, OUT, UP, GATE, DOWN = ("block.1.attn.q", "block.1.attn.out", "block.1.mlp.up", "block.1.mlp.gate", "block.1.mlp.out")
FILES = (
    file("scale-1-percent", "tiny_llama", INT8, "one scale of 256 times 1.01", UP, scale_times(1.01), SCALE),
    file("scale-less", "qwen3", INT8, "one scale times 0.99", OUT, scale_times(0.99), SCALE),
    file("scale-of-decode", "tiny_llama", INT8, "one scale times 1.01 in one signature", UP,
         scale_times(1.01, slice(1, 2)), SCALE),
    file("scale-of-head", "smollm2", INT8, "one scale of the head times 1.01", HEAD, scale_times(1.01), SCALE),
    file("scale-of-embedding", "qwen3", INT8, "one scale of the embedding times 1.01", EMBED, scale_times(1.01), SCALE),
    file("scale-of-fused", "phi3", INT8, "one scale of the fused q, k, v times 1.01",
         Q, scale_times(1.01, at=-1), SCALE),
    file("scale-weight-only", "tiny_llama", WEIGHT_ONLY, "one scale times 1.01", OUT, scale_times(1.01), SCALE),
    file("scale-of-block", "tiny_llama", INT4, "one scale of a block times 1.02", UP, scale_times(1.02), SCALE),
    file("scale-negative", "tiny_llama", WEIGHT_ONLY, "one scale with another sign", GATE, scale_times(-1), SCALE),
    file("scale-nan", "tiny_llama", INT8, "one scale is NaN", UP, scale_is(np.nan), SCALE),
    file("scale-inf", "tiny_llama", WEIGHT_ONLY, "one scale is infinite", DOWN, scale_is(np.inf), SCALE),
    file("scale-zero", "tiny_llama", INT8, "one scale is zero", DOWN, scale_is(0.0), SCALE),
    file("scale-of-block-zero", "tiny_llama", INT4, "one scale of a block is zero", UP, scale_is(0.0), SCALE),
    file("scale-bit", "qwen3", INT8, "a bit of one scale, 6 % of it", DOWN, scale_bit(19), SCALE),
    file("scale-exponent", "tiny_llama", WEIGHT_ONLY, "an exponent bit of one scale", Q, scale_bit(23), SCALE),
    file("scales-swapped", "tiny_llama", INT8, "two scales swapped", UP, swap_two, SCALE),
    file("scales-of-blocks-swapped", "tiny_llama", INT4, "two scales of blocks swapped", UP, swap_two, SCALE),
    file("scales-next", "qwen2_5", INT8, "each scale is its neighbour's", GATE, every_scale(next_scales), SCALE),
    file("scales-bfloat16", "tiny_llama", INT8, "scales rounded to bfloat16", DOWN, every_scale(to_bfloat16), SCALE),
    file("scales-thrice", "smollm2", WEIGHT_ONLY, "all scales of a layer times 3",
         UP, every_scale(lambda s: 3 * s), SCALE),
    file("saturated", "tiny_llama", INT8, "a scale of a quarter, and numbers cut off", UP, saturate, SCALE),
    file("saturated-head", "qwen2_5", WEIGHT_ONLY, "the same of the head", HEAD, saturate, SCALE),
    file("no-scales", "tiny_llama", INT8, "no scales", UP, no_scales, WEIGHT),
    file("zero-point", "tiny_llama", INT8, "a zero point off by one", UP, one_zero_point, WEIGHT),
    file("zero-point-of-head", "phi3", WEIGHT_ONLY, "a zero point of the head off by one",
         HEAD, one_zero_point, WEIGHT),
    file("blocks-misread", "tiny_llama", INT4, "blocks of 64 said, and scales of blocks of 32",
         UP, misread_blocks, DIFFERS),
    file("nibbles", "tiny_llama", INT4, "nibbles in the other order", UP, swap_nibbles, WEIGHT),
    file("nibbles-of-q", "tiny_llama", INT4, "nibbles in the other order", Q, swap_nibbles, WEIGHT),
    file("axis-lacking", "tiny_llama", INT8, "scales along an axis that is shorter", UP, axis(1), WEIGHT),
    file("axis", "phi3", INT8, "scales along the other axis of a square weight", OUT, axis(1), SCALE),
    file("other-layer", "tiny_llama", INT8, "weights of another layer", UP, of_layer("block.0.mlp.up"), WEIGHT),
    file("gate-as-up", "smollm2", WEIGHT_ONLY, "gate's weights as up", UP, of_layer(GATE), WEIGHT),
    file("number", "tiny_llama", INT8, "one number one step off", UP, one_number, WEIGHT),
    file("number-of-embedding", "smollm2", INT8, "one number of the embedding one step off",
         EMBED, whole(one_step), WEIGHT),
    file("number-int4", "qwen3", INT4, "one number of 4 bits one step off", GATE, whole(one_step), WEIGHT),
    file("row", "qwen2_5", INT8, "one row of numbers turned by three", DOWN, whole(row_turned), WEIGHT),
    file("rows-of-head", "qwen3", WEIGHT_ONLY, "two rows of the head exchanged", HEAD, whole(exchanged(4, 40)), WEIGHT),
    file("rounded-down", "tiny_llama", WEIGHT_ONLY, "every other number one step low", GATE, whole(one_down), WEIGHT),
    file("four-bits-in-eight", "tiny_llama", INT8, "numbers on every 16th step", DOWN, whole(fewer_steps), WEIGHT),
    file("bias-lost", "qwen2_5", INT8, "the bias of q, k, v is zero", Q, bias(np.zeros_like), KEPT),
    file("bias-times-2", "qwen2_5", FP16, "the bias of q, k, v times 2", Q, bias(lambda b: 2 * b), KEPT),
    file("float16-overflow", "tiny_llama", FP16, "a number beyond 65,504", UP, whole(overflow), NOT_FINITE),
    file("float16-bit", "qwen3", FP16, "an exponent bit of one number", OUT, whole(float16_bit), WEIGHT),
    file("float16-of-bfloat16", "tiny_llama", FP16, "rounded to bfloat16 before",
         GATE, whole(through_bfloat16), WEIGHT),
    rules("embedding-in-float", "tiny_llama", INT8, "the embedding left in float32", EMBED,
          left_out("EMBEDDING_LOOKUP"), LACKING),
    rules("layer-in-float", "tiny_llama", INT8, "one layer left in float32", DOWN,
          left_out("FULLY_CONNECTED", "TransformerBlock_1.*Linear_w2"), LACKING),
    rules("layer-in-float-int4", "tiny_llama", INT4, "one layer left in float32", DOWN,
          left_out("FULLY_CONNECTED", "TransformerBlock_1.*Linear_w2"), LACKING),
    rules("one-scale", "qwen2_5", INT8, "one scale for a whole weight, not one for each channel", EMBED,
          with_weights(granularity="TENSORWISE"), DIFFERS),
    rules("four-bits", "tiny_llama", WEIGHT_ONLY, "4 bits for 8", EMBED, with_weights(num_bits=4), DIFFERS),
    rules("channels-for-blocks", "tiny_llama", INT4, "a scale for each channel, not for each block", EMBED,
          with_weights(granularity="CHANNELWISE"), DIFFERS),
)  # fmt: skip
RUNTIMES = (
    kernels("number-weight-only", "tiny_llama", WEIGHT_ONLY, "one number one step off", UP, one_number),
    kernels("number-weight-only-builtin", "tiny_llama", WEIGHT_ONLY, "one number one step off",
            UP, one_number, BUILTIN),
    kernels("number", "tiny_llama", INT8, "one number one step off", UP, one_number),
    kernels("number-builtin", "tiny_llama", INT8, "one number one step off", UP, one_number, BUILTIN),
    kernels("number-int4", "tiny_llama", INT4, "one number one step off", UP, one_number),
    kernels("nibbles", "tiny_llama", INT4, "nibbles in the other order", GATE, swap_nibbles),
    kernels("float16-bit", "tiny_llama", FP16, "an exponent bit of one number", OUT, whole(float16_bit)),
    kernels("scale", "qwen3", INT8, "one scale times 1.01", DOWN, scale_times(1.01)),
    kernels("scale-bit", "qwen3", WEIGHT_ONLY, "a bit of one scale, 6 % of it", OUT, scale_bit(19)),
    kernels("scales-next", "smollm2", INT8, "each scale is its neighbour's", Q, every_scale(next_scales)),
    kernels("scale-of-head", "smollm2", WEIGHT_ONLY, "one scale of the head times 1.01", HEAD, scale_times(1.01)),
    kernels("number-of-head", "phi3", WEIGHT_ONLY, "one number of the head one step off", HEAD, whole(one_step)),
    kernels("bias-lost", "qwen2_5", INT8, "the bias of q, k, v is not added", Q, bias(np.zeros_like)),
    kernels("embedding", "qwen2_5", WEIGHT_ONLY, "each row of the embedding with its neighbour's scale", EMBED,
            every_scale(next_scales)),
)  # fmt: skip
FAULTS = (*FILES, *RUNTIMES)
