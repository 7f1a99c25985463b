"""What numbers at the logits cannot see: a parameter or a constant that is not, bit for bit, what it was made of."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masks import causal

from harness.audit.constants import audit_constants
from harness.audit.folded import match_folded
from harness.audit.named_constants import NamedConstant
from harness.audit.values import ExpectedValues, describe_difference, fuse, loaded_wrongly
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.reads import ReadConstant
from harness.names.codes import FindingCode
from harness.names.variant import Variant
from harness.pipeline.conversions import FLATBUFFER
from harness.pipeline.conversions import converted as converted_once
from harness.record.record import Finding
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.spec.model import GenerativeModel
from harness.stages.litert_torch.keys import account_for_keys, sources_of
from harness.stages.litert_torch.loading import load_reauthored
from harness.stages.litert_torch.miniature import shrink
from harness.stages.litert_torch.model import ReauthoredModel
from harness.stages.litert_torch.structure import position_tables, windows_of
from harness.store.cache import Cache
from harness.weights.miniature import write_miniature
from harness.weights.parameters import Fused, ParameterSource

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["tiny_llama", "gemma3", "phi4", "qwen3", "falcon", "openelm"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[GenerativeModel, Path]:
    return _made(request.param, tmp_path_factory.mktemp("miniature"))


def _made(name: str, folder: Path) -> tuple[GenerativeModel, Path]:
    model = load_spec(find_spec(name))
    write_miniature(model, 0, folder)
    return model, folder


@pytest.fixture
def plain(tmp_path: Path) -> tuple[GenerativeModel, Path]:
    return _made("tiny_llama", tmp_path)


def wrongly(model: GenerativeModel, folder: Path, network: Any = None) -> list[Finding]:
    config = shrink(model)[1]
    network = network or load_reauthored(model, folder, config, 64)
    return loaded_wrongly(network, sources_of(model, config, folder, network.state_dict()), folder)


def next_float(values: Any, at: Any) -> None:
    """Change one number by one unit in the last place."""
    import torch

    values[at] = torch.nextafter(values[at], torch.tensor(10.0))


def test_every_parameter_of_a_faithful_model_is_what_its_sources_say(made: tuple[GenerativeModel, Path]) -> None:
    assert wrongly(*made) == []


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("transformer_blocks.1.ff.w2.weight", "model.layers.1.mlp.down_proj.weight"),
        ("transformer_blocks.0.atten_func.qkv_projection.weight", "model.layers.0.self_attn.k_proj.weight"),
        ("transformer_blocks.0.post_atten_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_one_number_that_is_off_by_its_last_bit_is_found(
    plain: tuple[GenerativeModel, Path], name: str, key: str
) -> None:
    model, folder = plain
    network = copy.deepcopy(load_reauthored(model, folder, shrink(model)[1], 64))
    values = network.get_parameter(name).data
    next_float(values, (5,) * values.ndim)
    (finding,) = wrongly(model, folder, network)
    assert (finding.kind, finding.severity) == ("weights", "error")
    assert all(part in finding.what for part in (name, key, "1 of "))


def test_heads_that_a_loader_fuses_in_another_order_than_attention_takes_them_are_found(
    plain: tuple[GenerativeModel, Path],
) -> None:
    """The loader follows one field of the config and attention another: together they can be wrong."""

    def config() -> Any:
        made = plain[0].config()
        made.block_configs.attn_config.qkv_fused_interleaved = False
        return made

    findings = wrongly(dataclasses.replace(plain[0], config=config), plain[1])
    assert [finding.severity for finding in findings] == ["error", "error"]
    assert all("atten_func.qkv_projection.weight" in finding.what for finding in findings)


def test_a_norm_that_stays_at_ones_in_a_tied_model_is_found(tmp_path: Path) -> None:
    model, folder = _made("smollm", tmp_path)
    forgetful = dataclasses.replace(model, tensor_names=dataclasses.replace(model.tensor_names, final_norm=None))
    config = shrink(model)[1]
    network = load_reauthored(forgetful, folder, config, 64)
    assert bool((network.final_norm.weight == 1).all())
    lost = [f for f in account_for_keys(forgetful, folder, config) if f.parameter == "final_norm.weight"]
    assert [(f.code, f.severity) for f in lost] == [(FindingCode.PARAMETER_NOT_LOADED, "error")]
    # By value too, where the names are those of the model as it should be.
    (finding,) = loaded_wrongly(network, sources_of(model, config, folder, network.state_dict()), folder)
    assert "final_norm.weight of the re-authored model is not model.norm.weight" in finding.what


def test_of_a_model_with_its_own_loader_what_it_hands_on_is_compared_by_value(
    plain: tuple[GenerativeModel, Path],
) -> None:
    """What the loader computes is not: the projections that it fuses are named in a warning."""
    import torch

    from harness.stages.litert_torch.parameters import parameter_sources
    from harness.weights.files import stored_tensors

    model, folder = plain
    config = shrink(model)[1]
    own = load_reauthored(model, folder, config, 64).state_dict()
    known = parameter_sources(model.tensor_names, config, stored_tensors(folder), own)

    def load(checkpoint: dict[str, Any]) -> dict[str, Any]:
        taken = {source.parameter: [checkpoint.pop(key) for key in source.keys] for source in known}
        return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in taken.items()}

    loading = dataclasses.replace(model, load_weights=load)
    network = load_reauthored(loading, folder, config, 64)
    (warning,) = wrongly(loading, folder, network)
    assert (warning.severity, warning.what.split(" not ")[0]) == (
        "warning",
        "2 parameters of the re-authored model are",
    )
    assert "transformer_blocks.0.atten_func.qkv_projection.weight" in warning.what
    next_float(network.get_parameter("transformer_blocks.1.ff.w2.weight").data, (5, 5))
    error, _ = wrongly(loading, folder, network)
    assert error.severity == "error"
    assert "transformer_blocks.1.ff.w2.weight of the re-authored model is not model.layers.1.mlp" in error.what


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_are_compared_as_the_numbers_they_are(
    plain: tuple[GenerativeModel, Path], dtype: str
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    model, folder = plain
    halves = {name: value.to(getattr(torch, dtype)) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    assert wrongly(model, folder) == []


def test_fusing_puts_rows_where_attention_takes_them() -> None:
    q, k, v = (np.full((rows, 1), value, np.float32) for rows, value in ((8, 1), (4, 2), (4, 3)))
    q[4:] = 4  # the queries of the second group
    layout = Fused(heads=4, kv_heads=2, head_dim=2, interleaved=True)
    assert fuse([q, k, v], layout)[:, 0].tolist() == [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 2, 2, 3, 3]
    plain = fuse([q, k, v], layout.model_copy(update={"interleaved": False}))
    assert plain[:, 0].tolist() == [1, 1, 1, 1, 4, 4, 4, 4, 2, 2, 2, 2, 3, 3, 3, 3]


def test_a_sign_of_zero_differs_and_nan_equals_itself() -> None:
    nan, zero = np.float32("nan"), np.float32(0)
    assert describe_difference(np.array([nan, zero]), np.array([nan, zero])) == ""
    assert "1 of 2 numbers" in describe_difference(np.array([nan, zero]), np.array([nan, -zero]))


# The flatbuffer: converted once, then changed in a copy.


@pytest.fixture(scope="module", params=["tiny_llama", pytest.param("gemma2", marks=pytest.mark.further)])
def converted(request: pytest.FixtureRequest) -> tuple[GenerativeModel, Path, Path]:
    return _converted(request.param)


def _converted(name: str) -> tuple[GenerativeModel, Path, Path]:
    """A miniature, its checkpoint and its flatbuffer; from the cache where it was converted before."""
    from harness.weights.sources import resolve

    cache = Cache.standard()
    model = load_spec(find_spec(name))
    checkpoint = resolve(model, checkpoint=None, miniature=True, seed=0, cache=cache)
    own = ReauthoredModel(model, shrink(model)[1], Variant())
    file = converted_once(
        cache,
        own.conversion_key(checkpoint.sha256, [32], 256, {}),
        lambda: own.load(checkpoint.folder, 256),
        lambda network, target: own.write(network, target, [32], 256),
    )
    return model, checkpoint.folder, file


def constants(model: GenerativeModel, folder: Path, file: Path) -> Any:
    config = shrink(model)[1]
    sources: list[ParameterSource] = ReauthoredModel(model, config, Variant()).parameters(folder)
    return audit_constants(FlatbufferModel(file), sources, folder, position_tables(config), windows_of(config)), sources


def changed_copy(file: Path, values: Any, target: Path) -> Path:
    """The file with one number of a constant, found by its bytes, one unit in the last place larger."""
    content = bytearray(file.read_bytes())
    raw = np.ascontiguousarray(values, np.float32).tobytes()
    at, copies = content.find(raw), 0
    while at >= 0:
        number = np.frombuffer(raw[:4], np.float32)[0]
        content[at : at + 4] = np.nextafter(number, np.float32(10)).tobytes()
        copies += 1
        at = content.find(raw, at + 4)
    assert copies
    target.write_bytes(content)
    return target


def test_every_constant_of_a_faithful_flatbuffer_is_matched(converted: tuple[GenerativeModel, Path, Path]) -> None:
    audited, sources = constants(*converted)
    assert audited.findings == []
    # A tied head and its embedding may be one constant.
    assert len(sources) - 1 <= audited.matched <= len(sources)
    assert audited.computed > 0


@pytest.mark.parametrize(
    "parameter",
    ["transformer_blocks.1.ff.w2.weight", "transformer_blocks.0.atten_func.qkv_projection.weight",
     "transformer_blocks.0.pre_atten_norm.weight", "final_norm.weight", "tok_embedding.weight"],
)  # fmt: skip
def test_a_constant_that_is_off_by_its_last_bit_is_found(
    converted: tuple[GenerativeModel, Path, Path], parameter: str, tmp_path: Path
) -> None:
    """Norms and embeddings have no name in the file; Gemma's norms are stored with one added."""
    model, folder, file = converted
    _, sources = constants(model, folder, file)
    source = next(source for source in sources if source.parameter == parameter)
    values = ExpectedValues(folder).of(source)
    stored = np.float32(1) + values if source.one_plus else values
    audited, _ = constants(model, folder, changed_copy(file, stored, tmp_path / FLATBUFFER))
    assert audited.findings
    assert all(finding.severity == "error" and finding.kind == "weights" for finding in audited.findings)
    assert any(parameter in finding.what and "1 of " in finding.what for finding in audited.findings)


def test_a_flatbuffer_of_other_weights_matches_nothing(
    converted: tuple[GenerativeModel, Path, Path], tmp_path: Path
) -> None:
    model, folder, file = converted
    shutil.copytree(folder, tmp_path / "other")
    write_miniature(model, 1, tmp_path / "other")
    audited, sources = constants(model, tmp_path / "other", file)
    assert audited.matched == 0
    errors = [finding.what for finding in audited.findings if finding.severity == "error"]
    assert errors[0].startswith(f"{len(sources)} of {len(sources)} parameters in the flatbuffer are wrong")
    assert len(errors) < 20


# What one signature alone reads: a copy of its own, which nothing that the other signatures read can vouch for.


def own_copy(file: Path, target: Path, parameter: Any, change: Any, signature: str = "decode") -> Path:
    """The file, in which one signature reads a copy of a constant of its own, with other values."""
    from harness.bench.graph import rewrite

    def give(model: Any) -> None:
        (graph,) = (
            model.subgraphs[entry.subgraphIndex]
            for entry in model.signatureDefs
            if entry.signatureKey in (signature, signature.encode())
        )
        raw = np.ascontiguousarray(parameter, np.float32).tobytes()
        given = 0
        for tensor in graph.tensors:
            buffer = model.buffers[tensor.buffer]
            if buffer.data is not None and bytes(np.asarray(buffer.data, np.uint8)) == raw:
                other = copy.copy(buffer)
                values = np.asarray(change(np.array(parameter, np.float32)), np.float32)
                other.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
                tensor.buffer = len(model.buffers)
                model.buffers.append(other)
                given += 1
        assert given

    target.write_bytes(file.read_bytes())
    rewrite(target, give)
    return target


def flipped_but_few(values: Any) -> Any:
    """The sign of every row but the first few: those that inputs happen to decode."""
    return np.concatenate([values[:5], -values[5:]])


def last_bits(values: Any) -> Any:
    return (values.view(np.uint32) ^ np.uint32(1)).view(np.float32)


@pytest.fixture(scope="module")
def llama() -> tuple[GenerativeModel, Path, Path]:
    return _converted("tiny_llama")


@pytest.mark.parametrize(
    ("parameter", "change"),
    [
        ("tok_embedding.weight", flipped_but_few),
        ("transformer_blocks.1.ff.w2.weight", last_bits),
        ("transformer_blocks.0.ff.w2.weight", np.zeros_like),
        ("transformer_blocks.0.pre_atten_norm.weight", last_bits),
        ("lm_head.weight", lambda values: np.roll(values, 1, axis=0)),
    ],
)
@pytest.mark.parametrize("signature", ["decode", "prefill_32"])
def test_a_wrong_copy_that_one_signature_alone_reads_is_an_error_that_names_it(
    llama: tuple[GenerativeModel, Path, Path], parameter: str, change: Any, signature: str, tmp_path: Path
) -> None:
    model, folder, file = llama
    sources = constants(*llama)[1]
    values = ExpectedValues(folder).of(next(source for source in sources if source.parameter == parameter))
    audited, _ = constants(model, folder, own_copy(file, tmp_path / FLATBUFFER, values, change, signature))
    (finding,) = audited.findings
    assert (finding.kind, finding.severity) == ("weights", "error")
    assert parameter in finding.what
    assert signature in finding.what
    assert "numbers differ" in finding.what


def test_a_right_copy_that_one_signature_alone_reads_is_no_finding(
    llama: tuple[GenerativeModel, Path, Path], tmp_path: Path
) -> None:
    model, folder, file = llama
    sources = constants(*llama)[1]
    values = ExpectedValues(folder).of(next(s for s in sources if s.parameter == "transformer_blocks.1.ff.w2.weight"))
    assert constants(model, folder, own_copy(file, tmp_path / FLATBUFFER, values, np.copy))[0].findings == []


def test_a_further_constant_of_a_parameters_shape_is_an_error_although_every_parameter_is_held(
    llama: tuple[GenerativeModel, Path, Path], tmp_path: Path
) -> None:
    """As the bias of its down projection, say: the right weights are read as well."""
    from harness.bench.graph import constant, only, rewrite

    model, folder, file = llama
    target = tmp_path / FLATBUFFER
    target.write_bytes(file.read_bytes())
    rewrite(target, only("decode", lambda model, graph: _added(model, graph, constant)))
    audited, _ = constants(model, folder, target)
    (finding,) = audited.findings
    assert finding.severity == "error"
    assert all(part in finding.what for part in ("decode alone reads", "w2.weight", "numbers differ"))
    assert finding.code == FindingCode.CONSTANT_DIFFERS_IN_PART


def _added(model: Any, graph: Any, constant: Any) -> None:
    """One more input of an operator, which holds a down projection whose numbers are off by a thousandth."""
    from harness.bench.graph import operator

    op = operator(model, graph, "FULLY_CONNECTED", 9)
    op.inputs = [*(int(index) for index in op.inputs), int(op.inputs[1])]
    constant("FULLY_CONNECTED", 9, len(op.inputs) - 1, lambda values: values * np.float32(1.001))(model, graph)


def one_more(mask: Any) -> None:
    mask[200, 201] = 0  # no default input is that long


def sign_flipped(mask: Any) -> None:
    mask[250, 251] = np.finfo(np.float32).max


def exponent_flipped(mask: Any) -> None:
    mask[250, 10] = 2


def weak(mask: Any) -> None:
    mask[250, 251:] = -20


def leaking(mask: Any) -> None:
    mask[200:, :150] = -5


def blind(mask: Any) -> None:
    mask[200:] = -3e38


@pytest.mark.parametrize(
    ("damage", "says"),
    [(one_more, "row 200 sees positions 0 to 201"), (sign_flipped, "row 250 holds 3.40282e+38 at position 251"),
     (exponent_flipped, "row 250 holds 2 at position 10"), (weak, "row 250 holds -20 at position 251"),
     (leaking, "56 of 256 rows are not causal: row 200 holds -5"), (blind, "row 200 sees no position")],
    ids=lambda value: value.__name__ if callable(value) else "",
)  # fmt: skip
def test_a_mask_that_decode_alone_reads_and_that_is_damaged_is_an_error_that_names_the_row(
    llama: tuple[GenerativeModel, Path, Path], damage: Any, says: str, tmp_path: Path
) -> None:
    model, folder, file = llama

    def change(values: Any) -> Any:
        mask = values.copy()
        damage(mask[:, 0, 0])
        return mask

    audited, _ = constants(model, folder, own_copy(file, tmp_path / FLATBUFFER, causal(256), change))
    (finding,) = audited.findings
    assert finding.severity == "error"
    assert all(part in finding.what for part in ("is a mask that is wrong", "decode alone reads", says))


def test_a_linear_layer_that_its_norm_was_folded_into_is_recognised_by_value(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    random = np.random.default_rng(0)
    weight, bias, gain, shift = (random.normal(size=s).astype(np.float32) for s in ((24, 16), (24,), (16,), (16,)))
    save_file({"up.weight": weight, "up.bias": bias, "norm.weight": gain, "norm.bias": shift},
              tmp_path / "model.safetensors")  # fmt: skip
    layer, norm = "transformer_blocks.0.ff.w1", "transformer_blocks.0.pre_atten_norm"
    sources = [
        ParameterSource(parameter=f"{module}.{kind}", keys=[f"{key}.{kind}"])
        for module, key in ((layer, "up"), (norm, "norm"))
        for kind in ("weight", "bias")
    ]

    def holds(product: Any, total: Any) -> list[str]:
        block, linear = ("X_module", "Block_0"), ("GatedFeedForward_ff", "Linear_w1")
        folded = NamedConstant(ReadConstant("w", product, [(*block, *linear), (*block, "LayerNorm_pre_atten_norm")]))
        added = NamedConstant(ReadConstant("b", total, [(*block, *linear)]))
        match_folded([folded, added], sources, ExpectedValues(tmp_path))
        return folded.holds + added.holds

    total = (bias + weight @ shift).astype(np.float32)
    assert holds(weight * gain, total) == [f"{layer}.weight", f"{norm}.weight", f"{layer}.bias", f"{norm}.bias"]
    assert holds(weight * gain, total * np.float32(1.0001)) == [f"{layer}.weight", f"{norm}.weight"]
    assert holds(np.nextafter(weight * gain, np.float32(9)), total) == []
    assert holds(weight, total) == []
