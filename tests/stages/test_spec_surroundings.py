"""What a spec does to its surroundings: numeric settings are put right and named, code of the reference too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.models.llama.modeling_llama  # noqa: F401 - a spec that replaces something of it finds it there
from generative import generative
from marks import further_but
from paths import ROOT
from torch.nn import functional

from harness.spec import numerics, patched
from harness.spec.key import KnownSpec
from harness.spec.model import SpecRef

pytestmark = pytest.mark.slow

DECLARATION = """
from harness import GenerativeModel
MODEL = GenerativeModel(name="m", hf_id="o/m", config=dict, model_class=dict, tensor_names=None, published=dict)
"""
Findings = list[tuple[str, str]]


def findings_of(folder: Path, code: str, called: str = "") -> Findings:
    """Severity and text of what a spec with this code is told. called: runs after it has been loaded."""
    spec = folder / "spec.py"
    spec.write_text(f"{code}\n{DECLARATION}")
    known = KnownSpec(SpecRef(spec, "MODEL", {}))
    exec(called, {})
    return [(finding.severity, finding.what.replace(str(spec), "SPEC")) for finding in known.findings()]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Whatever a test sets or replaces is put back, also where the code under test does not."""
    threads = numerics.threads_now()
    with patched.watching() as watched:
        yield
    watched.undo()
    numerics.settle(threads)


SETTINGS = {
    "import torch; torch.set_float32_matmul_precision('medium')": "float32 matmul precision to medium",
    "import torch; torch.backends.cuda.matmul.allow_tf32 = True": "float32 matmul precision to high",
    "import torch; torch.backends.mkldnn.matmul.fp32_precision = 'bf16'": "mkldnn.matmul.fp32_precision to bf16",
    "import torch; torch.backends.fp32_precision = 'tf32'": "torch.backends.fp32_precision to tf32",
    "import torch; torch.set_default_dtype(torch.bfloat16)": "default dtype to bfloat16",
    "import torch; torch.set_default_device('meta')": "default device to meta",
    "import torch; torch.set_flush_denormal(True)": "flush to zero to on",
    "import torch; torch.use_deterministic_algorithms(True)": "deterministic algorithms to on",
    "import torch; torch.set_grad_enabled(False)": "grad mode to off",
    "import torch; kept = torch.inference_mode(); kept.__enter__()": "inference mode to on",
    "import torch; kept = torch.autocast('cpu', dtype=torch.bfloat16); kept.__enter__()": "autocast to on",
    "import torch; torch.set_num_threads(torch.get_num_threads() + 1)": "number of threads to",
    "import os; os.environ['ONEDNN_DEFAULT_FPMATH_MODE'] = 'BF16'": "ONEDNN_DEFAULT_FPMATH_MODE to BF16",
}


@pytest.mark.parametrize("code", SETTINGS)
def test_a_numeric_setting_of_a_spec_is_undone_and_named(code: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    found = findings_of(tmp_path, code)
    assert [severity for severity, _ in found] == ["warning"]
    assert found[0][1].startswith("SPEC sets ")
    assert SETTINGS[code] in found[0][1]
    assert numerics.settle(threads) == {}, "nothing is left to put right"
    assert "ONEDNN_DEFAULT_FPMATH_MODE" not in os.environ
    exact = torch.full((256, 256), 1 + 2**-15)
    assert torch.equal(exact @ torch.eye(256), exact)
    assert torch.ones(2, requires_grad=True).sum().requires_grad


def test_what_a_function_of_the_spec_sets_later_is_named_too(tmp_path: Path) -> None:
    found = findings_of(tmp_path, "", "import torch; torch.set_float32_matmul_precision('medium')")
    assert [text.split(" to ")[0] for _, text in found] == ["SPEC sets float32 matmul precision"]


def test_what_was_set_before_the_spec_is_the_environment_s(tmp_path: Path) -> None:
    torch.set_float32_matmul_precision("high")
    assert [text.split(" to ")[0] for _, text in findings_of(tmp_path, "")] == [
        "the environment sets float32 matmul precision"
    ]


SPEED_UP = "transformers.models.llama.modeling_llama"
REPLACED = {
    "import torch.nn.functional as F\nF.silu = lambda x, inplace=False: F.gelu(x)": "torch.nn.functional.silu",
    "import torch.nn.functional as F\nF.silu = F.gelu": "torch.nn.functional.silu",
    "import torch\nold = torch.nn.Linear.forward\ntorch.nn.Linear.forward = lambda self, x: old(self, x.half())": (
        "torch.nn.modules.linear.Linear.forward"
    ),
    "import torch\ntorch.Tensor.__matmul__ = lambda a, b: torch.matmul(a, b)": "torch.Tensor.__matmul__",
    "import torch.nn.functional as F\nF.layer_norm.__code__ = (lambda *a, **k: a[0]).__code__": (
        "torch.nn.functional.layer_norm"
    ),
    "import torch\ntorch.nn.modules.module.register_module_forward_hook(lambda module, args, output: output)": (
        "torch.nn.modules.module._global_forward_hooks"
    ),
    f"import {SPEED_UP} as L\nL.LlamaMLP.forward = lambda self, x: x": f"{SPEED_UP}.LlamaMLP.forward",
    f"import {SPEED_UP} as L\nL.LlamaMLP = L.LlamaAttention": f"{SPEED_UP}.LlamaMLP",
    f"import {SPEED_UP} as L\nL.apply_rotary_pos_emb = lambda q, k, *rest: (q, k)": f"{SPEED_UP}.apply_rotary_pos_emb",
    "import torch\nclass Loud(torch.overrides.TorchFunctionMode):\n"
    "    def __torch_function__(self, f, types, args=(), kwargs=None):\n"
    "        made = f(*args, **(kwargs or {}))\n"
    "        return made * 1.5 if getattr(f, '__name__', '') == 'silu' else made\n"
    "LOUD = Loud(); LOUD.__enter__()": "torch.__torch_function__ (mode Loud)",
    "import torch\nfrom torch.utils._python_dispatch import TorchDispatchMode\nclass Loud(TorchDispatchMode):\n"
    "    def __torch_dispatch__(self, f, types, args=(), kwargs=None):\n"
    "        made = f(*args, **(kwargs or {}))\n"
    "        return made * 1.5 if 'silu' in str(f) else made\n"
    "LOUD = Loud(); LOUD.__enter__()": "torch.__torch_dispatch__ (mode Loud)",
    "import torch\nfrom transformers.activations import ACT2FN\nACT2FN['silu'] = torch.nn.GELU": (
        "transformers.activations.ACT2FN.silu"
    ),
}  # fmt: skip


@pytest.mark.parametrize("code", REPLACED)
def test_code_of_the_reference_that_a_spec_replaces_is_named_and_can_be_put_back(code: str, tmp_path: Path) -> None:
    with patched.watching() as around:
        found = findings_of(tmp_path, code)
    assert [severity for severity, _ in found] == ["error"]
    assert found[0][1].startswith(f"SPEC replaces {REPLACED[code]}")
    assert found[0][1].endswith("take it out of the spec file")
    around.undo()
    with patched.watching() as again:
        silu = torch.nn.functional.silu(torch.ones(1))
    assert again.replaced == []
    assert float(silu) == pytest.approx(0.7311, abs=1e-3)
    assert float(functional.layer_norm(torch.tensor([0.0, 2.0]), (2,))[1]) == pytest.approx(1.0, abs=1e-3)


def test_the_file_of_a_package_that_a_spec_imports_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As packages that make transformers faster do: they load the module themselves and then replace parts of it."""
    monkeypatch.syspath_prepend(tmp_path)
    module = "transformers.models.olmo.modeling_olmo"
    sys.modules.pop(module, None)
    (tmp_path / "faster_parts.py").write_text(f"import {module} as O\nO.OlmoMLP.forward = lambda self, x: x\n")
    try:
        ((severity, text),) = findings_of(tmp_path, "import faster_parts")
    finally:
        sys.modules.pop(module, None)
        sys.modules.pop("faster_parts", None)
    assert severity == "error"
    assert f"{module}.OlmoMLP.forward by code of {tmp_path / 'faster_parts.py'}" in text


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.nn.functional.my_own = lambda x: x",
        "import torch\nclass Mine(torch.nn.Linear):\n    def forward(self, x):\n        return x",
        "from transformers.models.cohere import modeling_cohere, configuration_cohere",
        "import torch._dynamo, torch.export, torchao.quantization, torch.distributed",
        "from litert_torch.generative.layers import normalization as N\nN.own = 1",
        "import torch\nc = torch.compile(lambda x: x)\ny = torch.nn.Linear(2, 2)(torch.ones(2))",
    ],
)
def test_what_replaces_nothing_and_sets_nothing_is_said_nothing_of(code: str, tmp_path: Path) -> None:
    assert findings_of(tmp_path, code) == []


@pytest.mark.parametrize("name", further_but(["tiny_llama", "gemma2", "openelm"], list(generative())))
def test_no_registered_model_changes_its_surroundings(name: str) -> None:
    assert KnownSpec(generative()[name]).findings() == []


def record_of(folder: Path, code: str, **variables: str) -> tuple[int, dict[str, Any]]:
    """What a run of TinyLlama's miniature comes to, whose spec file begins with this code."""
    spec = folder / "own.py"
    spec.write_text(f"{code}\n{(ROOT / 'models' / 'tiny_llama.py').read_text()}")
    words = [
        "run",
        f"{spec}:TINY_LLAMA",
        "--miniature",
        "--stages",
        "reauthored",
        "--json",
        "--out",
        str(folder / "runs"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "harness.commands.main", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_neither_checkpoint_nor_reauthoring_is_accused_of_a_setting(tmp_path: Path) -> None:
    code, record = record_of(
        tmp_path,
        "import torch\ntorch.set_float32_matmul_precision('medium')\ntorch.set_default_dtype(torch.bfloat16)\n",
        ONEDNN_DEFAULT_FPMATH_MODE="BF16",
    )
    assert (code, record["verdict"], record["first_fault"]) == (0, "pass", None)
    said = [finding["what"] for finding in record["findings"] if finding["kind"] == "numeric"]
    assert any("own.py sets float32 matmul precision to medium; the stages run with highest" in what for what in said)
    assert any("own.py sets default dtype to bfloat16; the stages run with float32" in what for what in said)
    assert any("the environment sets ONEDNN_DEFAULT_FPMATH_MODE to BF16" in what for what in said)


def test_an_activation_that_a_spec_replaces_in_all_versions_does_not_pass_and_is_the_spec_s(tmp_path: Path) -> None:
    code, record = record_of(
        tmp_path, "import torch\ntorch.nn.functional.silu = lambda x, inplace=False: torch.nn.functional.gelu(x)\n"
    )
    fault = record["first_fault"]
    assert (code, fault["tap"], fault["owner"]) == (1, "block.0.mlp.act", "spec")
    assert any("torch.nn.functional.silu" in said for said in fault["evidence"])


@pytest.mark.further
def test_a_speed_up_of_transformers_does_not_reach_the_reference(tmp_path: Path) -> None:
    code, record = record_of(
        tmp_path, f"import {SPEED_UP} as L\nL.LlamaRMSNorm.forward = lambda self, x: self.weight * x\n"
    )
    assert (code, record["first_fault"]) == (1, None)
    errors = [finding["what"] for finding in record["findings"] if finding["severity"] == "error"]
    assert len(errors) == 1
    assert f"{SPEED_UP}.LlamaRMSNorm.forward" in errors[0]
