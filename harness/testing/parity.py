"""`assert_parity`: are two functions or two modules the same, to float32's own accuracy?

In: a candidate, a reference and inputs. Out: nothing, or an AssertionError. No tolerance is typed: the reference is run
in true float64 and several times in float32, and what float32 costs there is the unit of every error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.testing.outputs import Output, UncomparableError

if TYPE_CHECKING:
    from harness.testing.judging import OutputResult
    from harness.testing.running import Call, Truth

_HALVES = ("bfloat16", "float16")


def assert_parity(
    candidate: Callable[..., Any],
    reference: Callable[..., Any],
    *inputs: Any,
    keywords: Mapping[str, Any] | None = None,
    outputs: tuple[str, ...] | None = None,
    numpy: bool = False,
    dtype: Any = None,
    check_dtype: bool = True,
    seed: int = 0,
) -> None:
    """Raise AssertionError unless `candidate` gives what `reference` gives, to the accuracy of float32.

    candidate: a callable or an `nn.Module`, or with `numpy` a function of arrays, of NumPy or jax.
    reference: a callable or an `nn.Module` of plain torch operators.
    inputs, keywords: what both are called with: tensors, arrays, and tuples, lists and dicts with those in them. Each
        run gets copies of its own.
    outputs: names of the outputs to compare, as globs: `.logits`, `[0]`, `['loss']`. Otherwise all of them.
    numpy: hand the candidate NumPy arrays in place of tensors.
    dtype: torch.bfloat16 or torch.float16 for a candidate that is meant to compute in it: the floor is then what that
        type costs the reference.
    check_dtype: whether an output must be of the reference's dtype. With `numpy` its kind is enough.
    seed: both sides draw random numbers from it.

    Raises ValueError (`UncomparableError`) where there is nothing to judge by: a reference that does not run in
    float64, an output that is not a tensor, an output without a finite number, zeros made of zeros,
    inputs that show nothing of what is done to them.
    """
    __tracebackhide__ = True
    from harness.testing import running
    from harness.testing.judging import judged
    from harness.testing.message import message

    if not callable(candidate) or not callable(reference):
        raise UncomparableError("give two callables: the candidate, then the reference, then their inputs")
    narrow = _narrow(dtype)
    call = running.Call(tuple(inputs), dict(keywords or {}), seed, outputs)
    truth = running.truth(reference, call, narrow)
    made = running.candidate_outputs(candidate, call, numpy)
    name = str(narrow).removeprefix("torch.") if narrow is not None else _own_dtype(truth.samples[0])
    findings = [
        judged(key, made[key], truth.exact[key], [run[key] for run in truth.samples], name, check_dtype and not numpy)
        for key in truth.exact
        if key in made
    ]
    absent, extra = [key for key in truth.exact if key not in made], [key for key in made if key not in truth.exact]
    failed = any(not finding.passed and not finding.empty for finding in findings)
    if not failed and not absent and not extra:
        _check_compared(findings, call, [*truth.exact.values(), *made.values()])
        _check_tested(reference, call, truth)
        return
    raise AssertionError(
        message(findings, absent, extra, running.Sides(candidate, reference, call, numpy, truth, made, name))
    )


def _check_compared(results: Sequence[OutputResult], call: Call, outputs: Sequence[Output]) -> None:
    """Raises UncomparableError where what agrees shows nothing: an output without numbers, zeros made of zeros.

    Zeros made of anything else are a result like another: a mask, a layer whose weight starts at zero.
    """
    for result in results:
        if result.empty:
            raise UncomparableError(
                f"nothing to compare: of {f'output {result.name}' if result.name else 'the output'}, {result.problem}; "
                "give other inputs, or name what to compare with outputs=(...)"
            )
    if not any(output.values.any() for output in outputs) and call.only_zeros():
        raise UncomparableError(
            "nothing to compare: the inputs are all zero, so are the outputs, and nothing is tested; give other "
            "inputs, e.g. torch.randn"
        )


def _check_tested(reference: Callable[..., Any], call: Call, truth: Truth) -> None:
    """Raises UncomparableError where the inputs show nothing of what is done to them: zeros to a linear layer."""
    from harness.testing.degenerate import shows_nothing

    if shows_nothing(reference, call, truth.exact):
        what = "all zero" if call.only_zeros() else "one number throughout each row"
        raise UncomparableError(
            f"nothing to compare: the inputs are {what}, and what the reference gives there does not depend on them, "
            "as it does elsewhere; give other inputs, e.g. torch.randn"
        )


def _narrow(dtype: Any) -> Any:
    """A narrow type of torch, or None for float32. Raises UncomparableError for another."""
    import torch

    if dtype is None or str(dtype).removeprefix("torch.") == "float32":
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in _HALVES:
        raise UncomparableError(f"dtype is {dtype}; give torch.bfloat16 or torch.float16, or leave it out for float32")
    return getattr(torch, name)


def _own_dtype(given: Mapping[str, Any]) -> str:
    """The narrow type that the reference itself gives, if it does."""
    return next((output.dtype for output in given.values() if output.dtype in _HALVES), "")
