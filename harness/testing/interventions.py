"""Guesses at the cause that are tried on the code: one function of torch is made another one, and both sides compared.

In: both sides and an output that differs. Out: words of interventions after which the output agrees. First in the
reference, in float64: with the same change it gives what the candidate gives. Then in the candidate: with it, it gives
what the reference gives. Each is tried at all calls, then at one after the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from harness.compare.rows import Measured
from harness.stages.torch.intercept import Intercept, TorchCall
from harness.testing.changes import Change, interventions
from harness.testing.judging import Reach
from harness.testing.outputs import Output
from harness.testing.running import Call, Sides, candidate_outputs, exact_outputs

_SITES = 6  # calls of one kind that are tried one by one


class _Changed(Intercept):
    """Within it, calls are changed: all of those that can be, or one of them."""

    def __init__(self, change: Change, site: int | None = None) -> None:
        super().__init__()
        self.change, self.site = change, site
        self.seen = 0

    def called(self, call: TorchCall) -> Any:
        made = self.change(call)
        if made is NotImplemented:
            return call.func(*call.args, **call.kwargs)
        self.seen += 1
        return made if self.site in (None, self.seen - 1) else call.func(*call.args, **call.kwargs)


def guesses_by_trying(reach: Reach, name: str, sides: Sides) -> list[str]:
    """At most one: the first that explains all of the error."""
    if reach.before() is None:
        return []
    for words, changed in _of_inputs(sides):
        if reach.explains(_reached(reach, name, partial(exact_outputs, sides.reference, changed))):
            return [f"with {words} the reference gives what the candidate gives"]
    for said, run in _sides(reach, name, sides):
        for intervention in interventions():
            everywhere = _Changed(intervention.change)
            if reach.explains(run(everywhere)):
                return [f"with {intervention.words} the {said}"]
            for site in range(min(everywhere.seen, _SITES) if everywhere.seen > 1 else 0):
                if reach.explains(run(_Changed(intervention.change, site))):
                    where = f"in call {site + 1} of {everywhere.seen} alone"
                    return [f"with {intervention.words} ({where}) the {said}"]
    return []


def _sides(reach: Reach, name: str, sides: Sides) -> Iterator[tuple[str, Callable[[_Changed], Measured | None]]]:
    """What an intervention shows on each side, and how large the error is with it there."""

    def in_reference(mode: _Changed) -> Measured | None:
        return _reached(reach, name, lambda: exact_outputs(sides.reference, sides.call, [mode]), mode)

    def in_candidate(mode: _Changed) -> Measured | None:
        made = _given(lambda: candidate_outputs(sides.candidate, sides.call, False, [mode]), name)
        return None if made is None or not mode.seen else reach.after(reach.exact.values, made.values)

    yield "reference gives what the candidate gives", in_reference
    if not sides.numpy:
        yield "candidate gives what the reference gives", in_candidate


def _reached(
    reach: Reach, name: str, run: Callable[[], Mapping[str, Output]], mode: _Changed | None = None
) -> Measured | None:
    """None where nothing was changed, too: then nothing is explained."""
    made = _given(run, name)
    return None if made is None or (mode is not None and not mode.seen) else reach.after(made.values)


def _given(run: Callable[[], Mapping[str, Output]], name: str) -> Output | None:
    """What an output becomes; None where the change does not run, since it fits nothing there."""
    with contextlib.suppress(Exception):
        return run().get(name)
    return None


def _of_inputs(sides: Sides) -> Iterator[tuple[str, Call]]:
    """Inputs exchanged, and whole numbers one higher or lower: positions."""
    inputs = list(sides.call.inputs)
    for one in range(len(inputs)):
        for other in range(one + 1, len(inputs)):
            if _alike(inputs[one], inputs[other]):
                swapped = [*inputs]
                swapped[one], swapped[other] = inputs[other], inputs[one]
                yield f"inputs {one} and {other} exchanged", _with(sides.call, swapped)
        if isinstance(inputs[one], torch.Tensor) and not inputs[one].is_floating_point():
            for step in (1, -1) if inputs[one].dtype != torch.bool else ():
                moved = [*inputs]
                moved[one] = inputs[one] + step
                yield f"input {one} {'one higher' if step > 0 else 'one lower'}", _with(sides.call, moved)


def _alike(one: Any, other: Any) -> bool:
    tensors = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return tensors and one.shape == other.shape and one.dtype == other.dtype and one is not other


def _with(call: Call, inputs: list[Any]) -> Call:
    return Call(tuple(inputs), call.keywords, call.seed, call.only)
