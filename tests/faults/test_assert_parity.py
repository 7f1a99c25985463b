"""`assert_parity` passes what is the same function written otherwise, and finds mistakes made on purpose."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import namedtuple
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from layers import NUMPY, REWRITTEN, drawn
from mistaken_layers import MISTAKES
from torch import nn
from torch.nn import functional

from harness.testing import assert_parity, running
from harness.testing.outputs import UncomparableError

pytestmark = pytest.mark.miniature

X = torch.linspace(-3, 3, 2 * 5 * 32).reshape(2, 5, 32).sin() * 2


def mostly_further(names: Iterable[str], every: int) -> list[Any]:
    """Every so many of them, and the others for CI."""
    return [
        name if number % every == 0 else pytest.param(name, marks=pytest.mark.further)
        for number, name in enumerate(names)
    ]


def failure(candidate: Any, reference: Any, *inputs: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_parity(candidate, reference, *inputs, **options)
    return str(caught.value)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small are quicker so, and other tests run beside them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", mostly_further(REWRITTEN, every=3))
def test_the_same_function_in_another_order_is_no_alarm(name: str) -> None:
    candidate, reference, inputs = drawn(REWRITTEN[name], 20)
    assert_parity(candidate, reference, *inputs, numpy=name in NUMPY)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_made_on_purpose_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.testing.message.guesses_by_trying", lambda *given: [])  # they have a test of their own
    candidate, reference, inputs = drawn(MISTAKES[name], 20)
    assert_parity(reference, reference, *inputs)
    failure(candidate, reference, *inputs)


CAUSES = {
    "attention without its scale": "no scale in attention",
    "rope one position off": "positions one higher",
    "gelu tanh for erf": 'gelu(approximate="tanh")',
    "epsilon 1e-5 for 1e-6": "an epsilon of 1e-05",
    "norm without the one of 1 + weight": "weight in place of 1 + weight",
    "transposed weight": "the weight of linear layers transposed",
    "missing bias deep inside": "no bias in linear layers (in call 1 of 2 alone)",
    "grouped heads in another order": "the order of KV heads",
    "mask one position off": "the mask's diagonal one higher",
    "softcap missed": "no softcap",
    "residual left out": "input 0 is not added",
    "weights rounded to bfloat16": "weights rounded to bfloat16",
}


@pytest.mark.parametrize("name", mostly_further(CAUSES, every=2))
def test_the_cause_is_named_where_trying_it_explains_the_error(name: str) -> None:
    candidate, reference, inputs = drawn(MISTAKES[name], 21)
    assert CAUSES[name] in failure(candidate, reference, *inputs)


Z = torch.complex(X, X.flip(-1))


class _Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.complex(*torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return (z @ self.weight).to(torch.complex64) + z.real.cfloat()


@pytest.mark.parametrize("reference", [_Complex(), torch.fft.fft, lambda z: torch.view_as_real(z * z.abs())])
def test_complex_inputs_are_complex128_where_the_truth_is_computed(reference: Any) -> None:
    call = running.Call((Z,), {}, 0, None)
    assert {one.dtype for one in running.exact_outputs(reference, call).values()} <= {"complex128", "float64"}
    assert_parity(reference, reference, Z)
    assert_parity(lambda z: reference(z.clone()), reference, Z)
    assert "excess" in failure(lambda z: reference(z) * (1 + 1e-5), reference, Z)


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_a_large_weight_is_never_wide_as_a_whole_and_its_products_are_those_of_float64(rows: int) -> None:
    layer = nn.Linear(2100, 2100)
    x = torch.randn(rows, 2100, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = x.double() @ layer.weight.double().T + layer.bias.double()
    (made,) = running.exact_outputs(layer, running.Call((x,), {}, 0, None)).values()
    np.testing.assert_allclose(made.values, want.numpy(), rtol=0, atol=1e-13)


def test_nothing_is_guessed_that_does_not_explain_the_error() -> None:
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    assert "likely" not in failure(lambda x: torch.tanh(x) + noise, torch.tanh, X)


_COLUMN = torch.tensor([float(place == 7) for place in range(32)])


class _Positions(nn.Module):
    """Other positions move its error a little, below the limit. at_one: added to one number."""

    def forward(self, x: torch.Tensor, at_one: float = 0.0) -> torch.Tensor:
        made = torch.tanh(x) * 0.5 + torch.arange(5)[:, None] * _COLUMN * 4e-7
        made[1, 3, 7] += at_one
        return made


@pytest.mark.parametrize("at_one", [2.9e-6, 3e-6, 2e-5])
def test_an_error_near_the_limit_is_not_explained_by_what_moves_it(at_one: float) -> None:
    layer = _Positions()
    text = failure(lambda x: layer(x, at_one), layer, X)
    assert "likely: all of the error lies at" in text or "likely" not in text


def test_an_epsilon_is_named_only_as_closely_as_it_is_known() -> None:
    text = failure(lambda x: x / (x.norm(dim=-1, keepdim=True) + 1e-4), lambda x: x / x.norm(dim=-1, keepdim=True), X)
    assert "with an epsilon of at most 1e-08 the candidate gives what the reference gives" in text


def test_a_constant_that_is_added_is_not_called_an_epsilon() -> None:
    for function in (functional.tanh, partial(torch.softmax, dim=-1)):
        text = failure(lambda x, function=function: function(x) + 1e-6, function, X)
        assert "larger by 1e-06 everywhere" in text
        assert "epsilon" not in text


@pytest.mark.filterwarnings("error")
def test_one_number_that_is_off_is_found_on_every_axis_and_infinities_warn_of_nothing() -> None:
    layer = nn.Linear(64, 64)
    given = torch.randn(2, 10, 64, generator=torch.Generator().manual_seed(1))

    def off(x: torch.Tensor) -> torch.Tensor:
        made = layer(x)
        made[1, 9, 63] += 1e-3
        return made

    text = failure(off, layer, given)
    for axis, (place, extent) in enumerate(((1, 2), (9, 10), (63, 64))):
        assert f"all of the error lies at {place} of axis {axis} (1 of {extent})" in text
    masked = given.masked_fill(given > 0, -math.inf)
    assert "excess" in failure(lambda x: x * 1.001, lambda x: x, masked)


_LAYER, _NORM = nn.Linear(4, 4), nn.LayerNorm(4)


@pytest.mark.parametrize(
    ("candidate", "reference", "given"),
    [
        (lambda x: functional.linear(x, _LAYER.weight * 2, _LAYER.bias), _LAYER, torch.zeros(2, 4)),
        (lambda x: x * 3 + 1, lambda x: x + 1, torch.zeros(3, 4)),
        (lambda x: _NORM(x) * 2, _NORM, torch.full((2, 4), 0.3)),
        (lambda x: torch.softmax(2 * x, -1), lambda x: torch.softmax(x, -1), torch.ones(2, 4)),
        (lambda x: (x * 3 + 1, torch.ones(2)), lambda x: (x + 1, torch.ones(2)), torch.zeros(3, 4)),
    ],
)
def test_inputs_that_show_nothing_of_what_is_done_to_them_are_refused(
    candidate: Any, reference: Any, given: torch.Tensor
) -> None:
    with pytest.raises(UncomparableError, match=r"^nothing to compare: the inputs are [^\n]+give other inputs"):
        assert_parity(candidate, reference, given)


_TABLE = nn.Embedding(8, 4)


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (lambda x: torch.ones(x.shape[1], x.shape[1]).tril(), (torch.zeros(2, 4),)),  # a mask made of a shape
        (lambda ids, mask: _TABLE(ids) + mask, (torch.tensor([3, 5]), torch.zeros(2, 4))),
        (lambda ids, mask: _TABLE(ids) + mask, (torch.tensor([0, 0]), torch.zeros(2, 4))),
        (lambda x: functional.relu(x), (torch.full((2, 4), -1.0),)),
        (lambda x: functional.rms_norm(x, (4,)), (torch.ones(2, 4),)),
        (lambda x, y: x @ y, (torch.zeros(2, 4), torch.randn(4, 4))),
        (lambda x: x.exp(), (torch.tensor(2.0),)),
    ],
)
def test_flat_inputs_that_a_reference_tells_from_zeros_are_no_alarm(function: Any, given: tuple[Any, ...]) -> None:
    assert_parity(function, lambda *inputs: function(*inputs), *given)


def test_the_cause_of_a_large_error_is_looked_for_on_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        runs.append(x.numel())
        return functional.rms_norm(x, (64,), eps=1e-6)

    x = torch.randn(4000, 64, generator=torch.Generator().manual_seed(1))
    text = failure(lambda x: functional.rms_norm(x, (64,), eps=1e-5), counted, x)
    assert "likely: with an epsilon of 1e-05 the reference gives what the candidate gives" in text
    assert runs.count(x.numel()) <= 5  # the truth, what is the noise, and the cause
    summed = torch.randn(100_000, generator=torch.Generator().manual_seed(1))  # of which the first rows are a part
    runs.clear()

    def total(x: torch.Tensor) -> torch.Tensor:
        runs.append(x.numel())
        return (x * 2.0).cumsum(0)

    assert "likely" in failure(lambda x: x.cumsum(0), total, summed)
    assert runs.count(100_000) <= 5


def test_what_cannot_be_cut_is_searched_less_far() -> None:
    runs = []

    def mixed(x: torch.Tensor) -> torch.Tensor:
        runs.append(x.numel())
        return torch.tanh(x - x.mean()) * 0.5

    noise = torch.randn(4000, 64, generator=torch.Generator().manual_seed(1)) * 1e-2
    failure(lambda x: mixed(x) + noise, mixed, torch.randn(4000, 64))
    assert len(runs) < 100


def test_the_message_says_excess_index_and_both_numbers() -> None:
    def candidate(x: torch.Tensor) -> torch.Tensor:
        made = torch.tanh(x)
        made[1, 3, 7] += 0.25
        return made

    text = failure(candidate, torch.tanh, X)
    assert re.search(r"excess [\d.e+]+ of 4, and in the worst row [\d.e+]+ of 16", text)
    assert "worst at [1, 3, 7] the candidate gives" in text
    assert "all of the error lies at 7 of axis 2 (1 of 32)" in text


Pair = namedtuple("Pair", "hidden logits")


@dataclasses.dataclass
class Made:
    logits: torch.Tensor
    cache: object = None


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda a, b: (a, b), "[1]"),
        (lambda a, b: {"a": a, "b": b}, "['b']"),
        (lambda a, b: Pair(a, b), ".logits"),
        (lambda a, b: Made(b), ".logits"),
        (lambda a, b: [a, {"deep": (b,)}], "[1]['deep'][0]"),
    ],
)
def test_outputs_are_called_as_they_are_reached(wrap: Any, name: str) -> None:
    text = failure(lambda x: wrap(x, 2 * x), lambda x: wrap(x, x), X)
    assert f"output {name}: excess" in text


def test_an_output_that_is_no_tensor_is_refused_until_the_others_are_named() -> None:
    both = {"cache": object(), "logits": X}
    with pytest.raises(UncomparableError, match=r"output \['cache'\] is a object.*outputs="):
        assert_parity(lambda x: both, lambda x: both, X)
    assert_parity(lambda x: both, lambda x: both, X, outputs=("*logits*",))
    with pytest.raises(UncomparableError, match="nothing to compare"):
        assert_parity(lambda x: both, lambda x: both, X, outputs=("other",))


def test_an_output_too_few_or_too_many_is_no_parity() -> None:
    assert "lacks output [1]" in failure(lambda x: (x,), lambda x: (x, x), X)
    assert "gives one more, output [1]" in failure(lambda x: (x, x), lambda x: (x,), X)


def test_shapes_types_and_what_is_not_finite_are_told_first() -> None:
    text = failure(lambda x: x.mT, lambda x: x, X)
    assert "its shape is [2, 32, 5], and the reference's is [2, 5, 32]" in text
    assert "likely: axes 1 and 2 are swapped" in text
    assert "its dtype is float64" in failure(lambda x: x.double(), lambda x: x, X)
    assert_parity(lambda x: x.double(), lambda x: x, X, check_dtype=False)
    assert "its dtype is bool" in failure(lambda x: x > 0, lambda x: x, X)
    text = failure(lambda x: x.log(), lambda x: x.abs().log(), X)
    assert "numbers are not finite on one side alone, first at" in text


def test_the_same_infinity_on_both_sides_is_no_error() -> None:
    hidden = torch.zeros(5, 32).masked_fill(torch.arange(32) > 20, -math.inf)
    assert_parity(lambda x: hidden + x, lambda x: x + hidden, X)
    ones = torch.tensor([1.0, 1e-30])  # of which float32 alone makes an infinity
    assert_parity(lambda x: x * 1e30 * 1e30, lambda x: x * 1e30 * 1e30, ones)


def test_what_the_reference_cannot_hold_in_float32_is_held_to_the_truth() -> None:
    large = (X + 3) * 1e25

    def reference(x: torch.Tensor) -> torch.Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt()

    def candidate(x: torch.Tensor) -> torch.Tensor:
        return reference(x / 1e25)

    assert reference(large).eq(0).all()
    assert_parity(candidate, lambda x: torch.where(x > 0, reference(x) + x.square() * 0, 0), large[..., :16])
    assert "excess" in failure(lambda x: candidate(x) * 1.01, lambda x: reference(x) + x.square() * 0, large[..., :16])


@pytest.mark.parametrize(
    ("candidate", "reference", "given"),
    [
        (lambda x: x.exp() * 1e39 * 1e9, lambda x: x.exp() * 2e39 * 1e9, X),
        (lambda x: torch.softmax(x - math.inf, -1), lambda x: torch.softmax(2 * x - math.inf, -1), X),
        (lambda x: x * math.nan, lambda x: x / math.nan, X),
        (lambda x: x * 2, lambda x: x * 3, torch.zeros(0, 4)),
        (lambda x: x.int(), lambda x: x.int() + 1, torch.zeros(0, 4)),
        (lambda x: (x, x[:0]), lambda x: (x, x[:0]), X),
        (lambda x: x * 2, lambda x: x * 3, torch.zeros(3, 4)),
        (lambda x: x * 2, lambda x: x * 3, torch.zeros(3, 4).long()),
    ],
)
def test_what_was_not_compared_is_no_parity(candidate: Any, reference: Any, given: torch.Tensor) -> None:
    with pytest.raises(UncomparableError, match=r"^nothing to compare: [^\n]+give other inputs") as caught:
        assert_parity(candidate, reference, given)
    assert "\n" not in str(caught.value)


def test_zeros_made_of_something_are_an_output_like_another() -> None:
    assert_parity(lambda x: x * 0, lambda x: 0 * x, X)
    late = nn.Linear(32, 8, bias=False)
    nn.init.zeros_(late.weight)
    assert_parity(lambda x: x @ late.weight.T, late, X)


def test_an_output_without_numbers_stands_beside_one_that_differs() -> None:
    text = failure(lambda x: (x * 2, x[:0]), lambda x: (x, x[:0]), X)
    assert "output [0]: excess" in text
    assert "output [1]: nothing to compare, there is no number in it" in text


@pytest.mark.filterwarnings("error")
def test_a_complex_number_is_found_where_it_is() -> None:
    def candidate(x: torch.Tensor) -> torch.Tensor:
        made = torch.complex(x, 2 * x)
        made[1, 3, 7] += 0.5j
        return made

    text = failure(candidate, lambda x: torch.complex(x, 2 * x), X)
    assert re.search(r"worst at \[1, 3, 7\] the candidate gives \(.*j\), and the reference in float64 \(.*j\)", text)


def test_whole_numbers_are_compared_exactly() -> None:
    assert "1 of 10 whole numbers differ, first at [1, 4]: 7" in failure(
        lambda x: (
            torch.arange(10).reshape(2, 5).clamp(max=8).where(torch.arange(10).reshape(2, 5) < 9, torch.tensor(7))
        ),
        lambda x: torch.arange(10).reshape(2, 5),
        X,
    )


def test_no_run_sees_what_another_one_wrote() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total += x.sum((0, 1))
            x.add_(1)
            return x + self.total

    module, given = Counts(), X.clone()
    assert_parity(module, module, given)
    assert torch.equal(given, X)
    assert not module.total.any()


def test_both_sides_draw_the_same_numbers() -> None:
    torch.manual_seed(3)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert_parity(lambda x: torch.randn_like(x) + x, lambda x: x + torch.randn_like(x), X)
    assert torch.equal(torch.rand(1), after)
    layer = nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.3))
    assert_parity(layer, lambda x: layer[1](layer[0](x)), X)
    assert "in train mode, with dropout of 0.3 at 1; call .eval()" in failure(
        layer, lambda x: layer[0](functional.dropout(x, 0.3)), X
    )


def test_a_reference_may_hold_float32_tensors_of_its_own() -> None:
    weight, table = torch.randn(32, 32), torch.from_numpy(np.linspace(0, 1, 32, dtype=np.float32))

    def reference(x: torch.Tensor) -> torch.Tensor:
        cache = torch.zeros(2, 6, 32)
        cache[:, :5] = x.float() @ weight.T.to(torch.float32)
        return (cache * table).to(weight.dtype).cumsum(1)

    assert_parity(lambda x: functional.pad((x @ weight.T) * table, (0, 0, 0, 1)).cumsum(1), reference, X)


def test_a_reference_that_leaves_float64_is_refused() -> None:
    with pytest.raises(UncomparableError, match="is not float64 throughout: type gave float32"):
        assert_parity(torch.tanh, lambda x: torch.tanh(x.type("torch.FloatTensor")), X)
    scripted = torch.jit.trace(nn.Linear(32, 32), X)
    with pytest.raises(UncomparableError, match="runs in float32 and not in float64"):
        assert_parity(scripted, scripted, X)


def test_a_narrow_candidate_is_held_to_what_its_type_costs() -> None:
    layer = nn.Linear(32, 48)
    narrow = nn.Linear(32, 48).bfloat16()
    narrow.load_state_dict(layer.state_dict())

    def candidate(x: torch.Tensor) -> torch.Tensor:
        return narrow(x.bfloat16())  # type: ignore[no-any-return]

    assert 'give dtype="bfloat16"' in failure(candidate, layer, X)
    assert_parity(candidate, layer, X, dtype=torch.bfloat16)
    failure(lambda x: candidate(x) * 1.05, layer, X, dtype="bfloat16")
    assert_parity(lambda x: narrow(x.clone()), narrow, X.bfloat16())
    with pytest.raises(UncomparableError, match="dtype is int8"):
        assert_parity(candidate, layer, X, dtype="int8")


def test_a_candidate_of_arrays() -> None:
    assert_parity(lambda x: np.tanh(x), torch.tanh, X, numpy=True)
    assert_parity(lambda x: np.argmax(x, -1), lambda x: x.argmax(-1), X.numpy(), numpy=True)
    failure(lambda x: np.tanh(x) * np.float32(1.001), torch.tanh, X, numpy=True)


@pytest.mark.further
def test_a_candidate_of_jax() -> None:
    jax = pytest.importorskip("jax")
    assert_parity(jax.jit(lambda x: jax.nn.softmax(x, -1)), lambda x: torch.softmax(x, -1), X, numpy=True)


def test_a_scalar_is_no_alarm_by_bad_luck() -> None:
    for seed in range(30):
        x = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
        assert_parity(lambda x: x.flip(0).sum(), torch.sum, x)
        assert_parity(lambda x: x.reshape(10, 100).sum(0).sum(), torch.sum, x)
    failure(lambda x: x.sum() * (1 + 1e-4), torch.sum, X + 1)


def test_what_cannot_be_called_is_said_in_one_line() -> None:
    with pytest.raises(UncomparableError, match="give two callables"):
        assert_parity(X, torch.tanh, X)  # type: ignore[arg-type]
