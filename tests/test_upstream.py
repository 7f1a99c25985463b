"""Upstream defects that no run of the harness can show. Each is made to happen here; a test fails once it is mended.

`harness/known_defects.toml` lists them with status `test`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.defects import load_defects
from harness.stages.report import Silent

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CACHE = 256


def test_every_defect_that_a_test_shows_names_one_of_this_file() -> None:
    listed = {defect.command for defect in load_defects() if defect.status == "test"}
    own = {name for name in globals() if name.startswith("test_")}
    assert listed
    assert {command.split("::")[-1] for command in listed} <= own


def test_reference_kernels_are_wrong_for_int4_in_blocks(tmp_path: Path) -> None:
    weight, given, file = _int4_in_blocks(tmp_path)
    exact = given @ weight.T
    errors = {name: _relative(_output(file, name, given), exact) for name in _RESOLVERS}
    # What four bits cost, the same on the kernels that ship and on the plain ones.
    assert 0.01 < errors["AUTO"] < 0.15
    assert errors["BUILTIN_WITHOUT_DEFAULT_DELEGATES"] == pytest.approx(errors["AUTO"], rel=1e-3)
    assert errors["BUILTIN_REF"] > 0.9


_RESOLVERS = ("AUTO", "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "BUILTIN_REF")


def _int4_in_blocks(folder: Path) -> tuple[Any, Any, Path]:
    """One linear layer, its weight in four bits with a scale per 32 numbers, and an input for it."""
    import litert_torch
    import torch
    from ai_edge_quantizer import qtyping, quantizer

    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 128, bias=False).eval()
    given = torch.randn(4, 256)
    litert_torch.convert(layer, (given,)).export(str(folder / "float.tflite"))
    recipe = quantizer.Quantizer(str(folder / "float.tflite"))
    recipe.add_dynamic_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.FULLY_CONNECTED,
        num_bits=4,
        granularity=qtyping.QuantGranularity.BLOCKWISE_32,
    )
    recipe.quantize().export_model(str(folder / "int4.tflite"))
    return layer.weight.detach().numpy(), given.numpy(), folder / "int4.tflite"


def _output(file: Path, resolver: str, given: Any) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(str(file), experimental_op_resolver_type=getattr(OpResolverType, resolver))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def _relative(one: Any, exact: Any) -> float:
    return float(np.linalg.norm(one - exact) / np.linalg.norm(exact))


def test_a_position_past_the_cache_overwrites_its_last_slot(prepare: Any) -> None:
    file = _converted(prepare, mask_as_input=True)
    before = np.arange(CACHE, dtype=np.float32)[None, :, None, None]
    inside, past = (_cache_after(file, position, before) for position in (CACHE - 2, CACHE))
    assert _changed(inside, before) == [CACHE - 2]
    assert _changed(past, before) == [CACHE - 1]


def test_a_mask_made_inside_the_graph_ends_the_call_instead(prepare: Any) -> None:
    file = _converted(prepare, mask_as_input=False)
    before = np.zeros((1, CACHE, 1, 1), np.float32)
    _cache_after(file, CACHE - 1, before)
    with pytest.raises(RuntimeError, match="out of bounds"):
        _cache_after(file, CACHE, before)


def _converted(prepare: Any, *, mask_as_input: bool) -> Path:
    from harness.cache import Cache
    from harness.stages.flatbuffer import convert_model

    spec = ROOT / "models" / "tiny_llama.py"
    prepared = prepare(spec, miniature=True, variant={"mask_as_input": mask_as_input})
    payload = {"prepared": prepared, "cache_root": str(Cache.standard().root), "spec_file": str(spec)}
    return Path(convert_model({**payload, "spec_variable": "TINY_LLAMA"}, Silent())["flatbuffer"])


def _cache_after(file: Path, position: int, before: Any) -> Any:
    """The first cache of keys [1, CACHE, kv_heads, head_dim] after one token at a position; nothing complains."""
    from ai_edge_litert.interpreter import Interpreter

    decode = Interpreter(str(file)).get_signature_runner("decode")
    details = decode.get_input_details()
    given = {name: np.broadcast_to(before, d["shape"]).copy() for name, d in details.items() if "kv_cache" in name}
    given["tokens"] = np.array([[5]], details["tokens"]["dtype"])
    given["input_pos"] = np.array([position], details["input_pos"]["dtype"])
    if "mask" in details:
        given["mask"] = np.zeros(details["mask"]["shape"], np.float32)
    return decode(**given)["kv_cache_k_0"]


def _changed(after: Any, before: Any) -> list[int]:
    return [int(i) for i in np.flatnonzero((after != before).any(axis=(0, 2, 3)))]


@pytest.mark.parametrize(("alibi", "least", "most"), [(True, 1e-3, 1.0), (False, 0.0, 1e-5)], ids=["alibi", "rope"])
def test_eager_attention_of_falcon_adds_the_alibi_bias_twice(alibi: bool, least: float, most: float) -> None:
    """With a rotary embedding in place of ALiBi, the same two implementations agree: it is the bias."""
    eager, fused = (_falcon_logits(kind, alibi=alibi) for kind in ("eager", "sdpa"))
    assert least <= _relative(eager, fused) <= most
    if alibi:
        once = _falcon_logits("eager", alibi=True, bias=0.5)
        assert _relative(once, fused) < 1e-5


def _falcon_logits(kind: str, *, alibi: bool, bias: float = 1.0) -> Any:
    """Logits of a small Falcon with random weights; `bias` scales what build_alibi_tensor returns."""
    from unittest import mock

    import torch
    from transformers import FalconConfig, FalconForCausalLM
    from transformers.models.falcon import modeling_falcon

    config = FalconConfig(
        vocab_size=64, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, alibi=alibi, bias=True,
        multi_query=False, parallel_attn=False, new_decoder_architecture=False,
    )  # fmt: skip
    config._attn_implementation = kind
    torch.manual_seed(0)
    model = FalconForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
        build = modeling_falcon.build_alibi_tensor
        scaled = mock.patch.object(modeling_falcon, "build_alibi_tensor", lambda *a, **k: bias * build(*a, **k))
        with scaled:
            return model(torch.arange(1, 49).unsqueeze(0)).logits.numpy()
