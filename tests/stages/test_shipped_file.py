"""Gating a flatbuffer that somebody else converted: its own signatures, sizes and options, not ours."""

import json
from pathlib import Path

import pytest

from harness.commands.progress import PlainProgress
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.signatures import device_shape
from harness.names.variant import Variant
from harness.pipeline.options import Options
from harness.pipeline.run import run
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.stages.litert_torch.convert import kv_layout
from harness.stages.litert_torch.loading import load_reauthored
from harness.stages.litert_torch.miniature import shrink
from harness.store.cache import Cache
from harness.weights.sources import resolve

pytestmark = [pytest.mark.slow, pytest.mark.further]

PREFILL, CACHE = [8, 32], 128


@pytest.fixture(scope="module")
def convert(tmp_path_factory):
    """Convert the TinyLlama miniature as litert-torch's own script would, with the options given."""
    from litert_torch.generative.utilities import converter
    from litert_torch.generative.utilities.export_config import ExportConfig

    folder = tmp_path_factory.mktemp("shipped")
    model = load_spec(find_spec("tiny_llama"))
    checkpoint = resolve(model, checkpoint=None, miniature=True, seed=0, cache=Cache.standard())
    network = load_reauthored(model, checkpoint.folder, shrink(model)[1], CACHE)

    def make(name: str, quantize: str = "none", **options: object) -> Path:
        if "kvcache_layout" in options:
            options["kvcache_layout"] = kv_layout(Variant(kv_layout=str(options["kvcache_layout"])))
        return Path(
            converter.convert_to_tflite(
                network,
                output_path=str(folder),
                output_name_prefix=name,
                prefill_seq_len=PREFILL,
                kv_cache_max_len=CACHE,
                quantize=quantize,
                export_config=ExportConfig(**options),
            )
        )

    return make


@pytest.mark.parametrize(
    ("options", "variant"),
    [
        ({}, "prefill=8+32,kv-cache=128"),
        pytest.param({"mask_as_input": True}, "mask-as-input,prefill=8+32,kv-cache=128", marks=pytest.mark.sweep),
        pytest.param(
            {"kvcache_layout": "transposed"}, "kv=transposed,prefill=8+32,kv-cache=128", marks=pytest.mark.sweep
        ),
    ],
    ids=["no prefill logits", "mask as input", "transposed KV cache"],
)
def test_a_file_that_ships_is_gated_through_the_signatures_it_has(convert, tmp_path, options, variant):
    file = convert("-".join(options) or "plain", **options)
    assert not device_shape(FlatbufferModel(file), 2, 2, 64, 512, "tiny_llama").prefill_logits
    with PlainProgress() as progress:
        folder, record = run(Options(model="tiny_llama", tflite=file, out=tmp_path), progress)
    assert record.verdict == "pass", [hop.reasons for hop in record.hops]
    assert record.variant == variant
    assert record.options["prefill"] == PREFILL
    assert record.options["kv_cache_len"] == CACHE
    assert max(item.tokens for item in record.inputs) <= CACHE
    assert record.hop("reauthored->tflite-builtin").coverage == 1.0
    used = " ".join(item.schedule for item in record.inputs)
    assert all(f"prefill_{size}" in used for size in PREFILL)
    assert "convert" not in {stage.name for stage in record.stages}
    assert json.loads((folder / "parity.json").read_text())["verdict"] == "pass"
