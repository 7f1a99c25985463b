"""Every registered example as a miniature, as it is right: its lengths, its remedy, its outcome."""

from __future__ import annotations

from pathlib import Path

from paths import ROOT

from harness.bench.outcome import Outcome
from harness.bench.workbench import TORCH_STAGES, Bench
from harness.store.cache import key_of

EXAMPLES = {
    "amd_llama", "deepseek", "falcon", "gemma1", "gemma2", "gemma3", "hammer", "llama3_2", "openelm",
    "phi2", "phi3", "phi4", "qwen2_5", "qwen3", "smollm", "smollm2", "tiny_llama",
}  # fmt: skip
# Shorter than a window, twice as long, and six times; the last two end with single decode steps.
LENGTHS = (("one", 1, 1), ("chunked", 33, 1), ("long", 96, 3))
ROUNDED = str(ROOT / "suites" / "upstream" / "falcon_rounded.py")
# What avoids the known defects: the listed remedies for Falcon's bias and for attention with one KV head.
REMEDY = {"falcon": (ROUNDED, "default"), "gemma1": ("gemma1", "kv=transposed"), "gemma3": ("gemma3", "kv=transposed")}


def right(name: str) -> Bench:
    model, variant = REMEDY.get(name, (name, "default"))
    return Bench(model, inputs=LENGTHS, variant=variant)


def called(bench: Bench) -> str:
    variant = bench.prepared.variant.name
    return bench.ref.name + (f" {variant}" if variant != "default" else "")


def judged(bench: Bench, folder: Path) -> Outcome:
    """The PyTorch hop alone, traced into an empty folder."""
    for stage in TORCH_STAGES:
        bench.trace(stage, folder)
    return bench.judge(folder, TORCH_STAGES)


def lengthened(bench: Bench, positions: int, prefill: int) -> Bench:
    """Converted for longer inputs than the model's declaration says, and given one."""
    other = bench.reseeded(0, (("long", positions, 0),), flatbuffer=False)
    prepared = other.prepared
    prepared.kv_cache_len, prepared.prefill = positions, [prefill]
    content = {"of": bench.prepared.conversion_key, "kv_cache_len": positions, "prefill": [prefill]}
    prepared.conversion_key = key_of(content)
    prepared.checkpoint = str(other.checkpoint)
    return other
