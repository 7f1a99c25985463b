"""Upstream defects that no run of the harness can show, or not the whole of. Each is made to happen here; a test fails
once it is fixed.

`harness/judge/known_defects.toml` lists the former with status `test`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.judge.known_defects import load_defects

pytestmark = pytest.mark.slow


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
