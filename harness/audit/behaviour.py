"""What a small function does, found out by calling it: norms, activations, rotary frequencies.

In: a module or a function of either framework. Out: its description. Declared values are not trusted: a norm whose
code ignores its epsilon is described with the epsilon that acts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

from harness.audit.structure import Norm, Rope

_TINY = 1e-6  # its square is small against every epsilon in use, and far from float32's smallest number
_LARGE = 1e4


class Norms:
    """Describes norm modules, each kind once: layers of one model repeat the same norm."""

    def __init__(self) -> None:
        self._known: dict[Any, Norm] = {}

    def describe(self, module: Any) -> Norm:
        """How a norm acts. Raises ValueError for one that is neither an RMS nor a layer norm."""
        plain = tuple((name, repr(value)) for name, value in sorted(vars(module).items()) if not name.startswith("_"))
        key = (type(module), plain, tuple((name, tuple(p.shape)) for name, p in module.named_parameters()))
        if key not in self._known:
            self._known[key] = _describe_norm(module)
        return self._known[key]


def _describe_norm(module: Any) -> Norm:
    import torch

    norm = copy.deepcopy(module).to_empty(device="cpu").float()
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    width = weight.shape[-1] if weight is not None else int(norm.normalized_shape[-1])

    def act(x: Any, w: float) -> Any:
        with torch.no_grad():
            for tensor in (weight, bias):
                if tensor is not None:
                    tensor.fill_(w if tensor is weight else 0.0)
            return norm(x)

    return describe_norm(act, width, bias=bias is not None, called=type(module).__name__, weighted=weight is not None)


def describe_norm(
    act: Callable[[Any, float], Any], width: int, *, bias: bool, called: str, weighted: bool = True
) -> Norm:
    """How a norm acts, whatever it is written in. Raises ValueError for one that is neither an RMS nor a layer norm.

    act: gives its output for rows of torch numbers `[1, width]`, with all its weights set to one number. bias: whether
    it has one. called: its class. weighted: whether it has weights.
    """
    import torch

    sign = torch.ones(1, width)
    sign[:, 1::2] = -1
    zero_centred = weighted and bool(act(sign, 0.0).any())
    unit = 0.0 if zero_centred else 1.0
    gain = float(act(_LARGE * sign, unit)[0, 0])
    small = float(act(_TINY * sign, unit)[0, 0])
    leaning = act(_LARGE * (sign + 2), unit) / gain
    expected = (sign + 2) / math.sqrt(5)
    if torch.allclose(leaning, expected, rtol=1e-4):
        kind = "rms"
    elif torch.allclose(leaning, sign, rtol=1e-4):
        kind = "layer"
    else:
        raise ValueError(f"{called} is neither an RMS norm nor a layer norm")
    # Float32 arithmetic leaves four good digits of it at least.
    eps = _TINY**2 * ((gain / small) ** 2 - 1) if small else math.inf
    return Norm(kind, float(f"{eps:.4g}"), zero_centred, bias, gain)


def describe_activation(function: Callable[[Any], Any]) -> str:
    """The activation's name: "silu", "gelu", "gelu_tanh", "gelu_quick", "relu" or "linear"; "" for any other."""
    import torch
    from torch.nn import functional

    x = torch.linspace(-6, 6, 241, dtype=torch.float32)
    known: dict[str, torch.Tensor] = {
        "silu": functional.silu(x),
        "gelu": functional.gelu(x),
        "gelu_tanh": functional.gelu(x, approximate="tanh"),
        "gelu_quick": x * torch.sigmoid(1.702 * x),
        "relu": functional.relu(x),
        "linear": x,
    }
    with torch.no_grad():
        given = function(x)
    # Exact and tanh GELU differ by up to 5e-4; two codings of one of them by float32's rounding.
    return next((name for name, values in known.items() if torch.allclose(given, values, rtol=0, atol=2e-6)), "")


def describe_rope(frequencies: Iterable[float], amplitude: float, base: float) -> Rope:
    """frequencies: radians per position, one for each pair of numbers. base: theta as declared."""
    given = [float(f) for f in frequencies]
    dims = 2 * len(given)
    plain = [float(base) ** (-2 * i / dims) for i in range(len(given))]
    scaling = tuple(p / f if f else math.inf for p, f in zip(plain, given, strict=True))
    return Rope(float(base), dims, scaling, amplitude)
