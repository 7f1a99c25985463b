"""Gating a file of litert-torch's newer exporter, `export_hf`, whose tensors carry the Hugging Face model's names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.align.layout import HeadLayout, split_heads
from harness.align.naming import GENERATIVE, hf_naming, told_apart
from harness.align.views import TapSource, tensor_of, view_tensor
from harness.audit.constants import ConstantAudit, audit_constants
from harness.audit.pieces import covers, find_pieces
from harness.audit.values import ExpectedValues
from harness.bench.graph import rewrite
from harness.bench.reseed import patch
from harness.bench.workbench import Bench
from harness.commands.progress import PlainProgress
from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.signatures import device_shape
from harness.names.variant import Variant
from harness.pipeline.options import Options
from harness.pipeline.run import run
from harness.record.record import Record
from harness.stages.litert_torch.convert import conversion_key
from harness.store.cache import Cache, key_of
from harness.weights.folder_spec import declared_folder

pytestmark = [pytest.mark.slow, pytest.mark.further]

PREFILL, CACHE = 32, 128
_EXPORT = """
import sys
from litert_torch.generative.export_hf import export
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
folder, out, prefill, cache = sys.argv[1:]
words = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(8)}, unk_token="<0>"))
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<0>").save_pretrained(folder)
export.export(folder, out, prefill_lengths=[int(prefill)], cache_length=int(cache), quantization_recipe="",
              keep_temporary_files=True, bundle_litert_lm=False)
"""


@pytest.fixture(scope="module")
def llama() -> Bench:
    return Bench("tiny_llama", stages=("oracle", "hf", "reauthored"))


@pytest.fixture(scope="module")
def exported(llama: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TinyLlama miniature, exported once per version of the exporter; in a process of its own, which it patches."""
    prepared = llama.prepared
    weights = prepared.source.sha256
    content = conversion_key(weights, {}, None, None, [PREFILL], CACHE, Variant())

    def make(folder: Path) -> None:
        checkpoint = tmp_path_factory.mktemp("exporting") / "checkpoint"
        shutil.copytree(llama.checkpoint, checkpoint)
        command = [sys.executable, "-c", _EXPORT, str(checkpoint), str(folder), str(PREFILL), str(CACHE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]

    folder = Cache.standard().build("exports", key_of({"export": _EXPORT, "content": content}), make)
    return folder / "model.tflite"


def test_a_file_of_the_newer_exporter_passes_and_every_tap_is_compared(exported: Path, tmp_path: Path) -> None:
    with PlainProgress() as progress:
        _, record = run(Options(model="tiny_llama", miniature=True, tflite=exported, out=tmp_path), progress)
    assert record.verdict == "pass", [hop.reasons for hop in record.hops]
    assert {hop.coverage for hop in record.hops} == {1.0}
    assert [finding for finding in record.findings if finding.kind == "weights"] == []
    tapped = next(stage for stage in record.stages if stage.name == "tap")
    assert tapped.facts["constants_matched"] == 21  # the queries, keys and values of two blocks, one by one


def of_folder(llama: Bench, file: Path, out: Path) -> Record:
    """The miniature's own folder on the route `export_hf`, with a file that was exported of it."""
    (model,), checkpoint = declared_folder([str(llama.checkpoint)], "export-hf", None, miniature=False)
    with PlainProgress() as progress:
        return run(Options(model=model, checkpoint=checkpoint, tflite=file, out=out), progress)[1]


def test_the_folder_itself_is_compared_with_hugging_face_without_a_re_authored_model(
    llama: Bench, exported: Path, tmp_path: Path
) -> None:
    record = of_folder(llama, exported, tmp_path)
    assert record.verdict == "pass", [hop.reasons for hop in record.hops]
    assert [hop.name for hop in record.hops] == ["hf->tflite-xnnpack", "hf->tflite-builtin"]
    assert {hop.coverage for hop in record.hops} == {1.0}
    assert [
        finding.what for finding in record.findings if finding.severity == "error" or finding.kind == "weights"
    ] == []


def test_a_constant_of_an_exported_file_that_is_off_is_the_first_fault_and_the_weights_own_it(
    llama: Bench, exported: Path, tmp_path: Path
) -> None:
    file = tmp_path / "broken.tflite"
    shutil.copyfile(exported, file)
    values = ExpectedValues(llama.checkpoint).values("model.layers.1.mlp.up_proj.weight")
    patch(file, values, np.asarray(values * np.float32(1.01), np.float32))
    record = of_folder(llama, file, tmp_path)
    assert record.verdict == "fail"
    fault = record.first_fault
    assert fault is not None
    assert (fault.tap, fault.owner) == ("block.1.mlp.up", "converter"), fault.evidence  # on both kernels
    assert record.unexplained
    assert all(stage.status == "ok" for stage in record.stages)
    assert {each.tap for each in record.faults} == {"block.1.mlp.up"}


def audited(llama: Bench, file: Path) -> ConstantAudit:
    prepared = llama.prepared
    return audit_constants(FlatbufferModel(file), prepared.parameters, llama.checkpoint, prepared.tables)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("model.layers.0.self_attn.q_proj.weight", lambda values: np.nextafter(values, np.float32(9))),
        ("model.layers.1.self_attn.k_proj.weight", lambda values: np.roll(values, 1, axis=0)),
        ("model.layers.1.mlp.up_proj.weight", np.negative),
        ("model.norm.weight", lambda values: values * np.float32(1.001)),
    ],
)
def test_a_constant_that_is_off_is_named_by_the_tensor_of_the_checkpoint(
    llama: Bench, exported: Path, key: str, change: Callable[[Any], Any], tmp_path: Path
) -> None:
    file = tmp_path / "broken.tflite"
    shutil.copyfile(exported, file)
    values = ExpectedValues(llama.checkpoint).values(key)
    patch(file, values, np.asarray(change(values), np.float32))
    (finding,) = audited(llama, file).findings
    assert finding.severity == "error"
    named = next((s.parameter for s in llama.prepared.parameters if s.keys == [key]), key)
    assert named in finding.what
    assert "numbers differ" in finding.what


def test_a_file_that_takes_embeddings_in_place_of_tokens_is_refused_in_one_line(exported: Path, tmp_path: Path) -> None:
    def refused(name: str) -> str:
        file = tmp_path / f"{name}.tflite"
        shutil.copyfile(exported, file)
        rewrite(file, lambda model: rename(model, name))
        with pytest.raises(UsageError) as raised:
            device_shape(FlatbufferModel(file), 2, 2, 64, 512, "tiny_llama")
        return str(raised.value)

    assert "externalize_embedder" in refused("embeddings")
    assert "lacks the input 'tokens'" in refused("ids")
    assert device_shape(FlatbufferModel(exported), 2, 2, 64, 512, "tiny_llama").kv_layout == "transposed"


def rename(model: Any, name: str) -> None:
    for signature in model.signatureDefs:
        for entry in signature.inputs:
            if entry.name in ("tokens", b"tokens"):
                entry.name = name


# --- names -----------------------------------------------------------------------------------------------------------


def modules(**points: str) -> dict[str, dict[str, str | None]]:
    return {f"block.0.{point.replace('_', '.', 1)}": {"hf": path} for point, path in points.items()}


def test_layers_are_known_by_where_the_tensor_names_lead_whatever_the_classes_are_called() -> None:
    falcon = hf_naming(
        modules(
            attn_q="transformer.h.0.self_attention.query_key_value",
            attn_k="transformer.h.0.self_attention.query_key_value",
            attn_v="transformer.h.0.self_attention.query_key_value",
            attn_out="transformer.h.0.self_attention.dense",
            mlp_up="transformer.h.0.mlp.dense_h_to_4h",
            mlp_out="transformer.h.0.mlp.dense_4h_to_h",
        ),
        interleaved=True,
    )
    block = ("FalconForCausalLM_model", "FalconModel_transformer", "FalconDecoderLayer_7")
    assert falcon.key((*block, "FalconAttention_self_attention", "FalconLinear_query_key_value")) == (7, "qkv")
    assert falcon.key((*block, "FalconAttention_self_attention", "FalconLinear_dense")) == (7, "o")
    assert falcon.key((*block, "FalconMLP_mlp", "FalconLinear_dense_h_to_4h")) == (7, "up")
    assert falcon.key((*block, "FalconMLP_mlp", "FalconLinear_dense")) is None
    assert falcon.key(("FalconForCausalLM_model", "Linear_lm_head")) is None
    assert falcon.qkv_view == "split_grouped_"
    assert GENERATIVE.key(("X_module", "Own_3", "GatedFeedForward_ff", "Linear_w2")) == (3, "down")
    assert GENERATIVE.key((*block, "FalconMLP_mlp", "Linear_down_proj")) is None


def test_operators_that_carry_their_neighbours_names_are_told_apart_and_never_guessed() -> None:
    q, k, v = ((0, part) for part in "qkv")
    assert told_apart([[q], [q, k], [q, v]]) == [q, k, v]
    assert told_apart([[k, v], [k]]) == [v, k]
    assert told_apart([[q, k], [q, k]]) == [None, None]
    assert told_apart([[q], [q], []]) == [q, None, None]


@pytest.mark.parametrize("how", ["joined", "grouped"])
def test_heads_are_split_as_the_exported_model_lays_them_out_and_put_back(how: str) -> None:
    own = HeadLayout(4, 2, 3, interleaved=how == "joined")  # of the re-authored model: the other way
    laid = HeadLayout(4, 2, 3, interleaved=how == "grouped")
    rows = np.arange(5 * 24, dtype=np.float32).reshape(1, 5, 24)
    parts = {f"split_{how}_{part}": split_heads(rows, part, laid) for part in "qkv"}
    for view, expected in parts.items():
        assert np.array_equal(view_tensor(rows, source(view), own), expected)
    assert np.array_equal(tensor_of(parts, source(f"split_{how}_q"), (5, 24), own), rows[0])
    heads = view_tensor(rows[0], source("rows_of_heads"), own)
    assert heads.shape == (1, 5, 8, 3)
    assert np.array_equal(tensor_of({"rows_of_heads": heads}, source("rows_of_heads"), (1, 5, 24), own), rows)


def source(view: str) -> TapSource:
    return TapSource("block.0.attn.q", 0, 0, view, "", "FULLY_CONNECTED")


# --- pieces ----------------------------------------------------------------------------------------------------------


class Stored(ExpectedValues):
    """Tensors of a checkpoint that lies in no file."""

    def __init__(self, **tensors: Any) -> None:
        self.tensors = tensors

    def values(self, key: str) -> Any:
        return self.tensors[key]

    def shape(self, key: str) -> tuple[int, ...]:
        return self.tensors[key].shape  # type: ignore[no-any-return]


def test_slices_of_one_tensor_and_whole_tensors_one_after_the_other_are_pieces_and_nothing_else_is() -> None:
    random = np.random.default_rng(0)
    a, b, c = (random.normal(size=(rows, 40)).astype(np.float32) for rows in (32, 16, 16))
    stored = Stored(a=a, b=b, c=c)

    def pieces(values: Any) -> list[tuple[str, int, int]]:
        return [(p.key, p.start, p.stop) for p in find_pieces([values], stored, ["a", "b", "c"])[0]]

    assert pieces(a) == [("a", 0, 32)]
    assert pieces(a[8:24]) == [("a", 8, 24)]
    assert pieces(np.concatenate([c, a])[:, None]) == [("c", 0, 16), ("a", 0, 32)]
    for wrong in (np.roll(a, 1, axis=0), a[::-1], np.concatenate([a[8:], b]), np.concatenate([b, b]), a[:4], a + 0.1,
                  np.concatenate([a, b[:8]]), np.repeat(a, 2, axis=0), a.T):  # fmt: skip
        assert pieces(np.ascontiguousarray(wrong, np.float32)) == []
    halves = [piece for found in find_pieces([a[16:], a[:16]], stored, ["a"]) for piece in found]
    assert covers(halves, "a", 32)
    assert not covers(halves[:1], "a", 32)
    assert not covers([], "a", 32)


def test_biases_of_zeros_are_held_by_zeros_of_their_length() -> None:
    stored = Stored(k=np.zeros(16, np.float32), v=np.zeros(16, np.float32), q=np.zeros(32, np.float32))
    short, long = find_pieces([np.zeros(16, np.float32), np.zeros(32, np.float32)], stored, ["k", "v", "q"])
    assert {piece.key for piece in short if covers([piece], piece.key, 16)} >= {"k", "v"}
    assert covers(long, "q", 32)
