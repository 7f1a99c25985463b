"""Guesses at the cause that are tried on the code: one function of torch is made another one, and both sides compared.

In: both sides and an output that differs. Out: words of interventions after which the output agrees. First in the
reference, in float64: with the same change it gives what the candidate gives. Then in the candidate: with it, it gives
what the reference gives. Each is tried at all calls, then at one after the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch

from harness.compare.rows import Measured
from harness.stages.torch.intercept import Intercept, TorchCall
from harness.testing.changes import Change, Intervention, interventions
from harness.testing.cut import Part, smaller
from harness.testing.judging import Reach
from harness.testing.outputs import Output
from harness.testing.running import Call, Sides, candidate_outputs, exact_outputs

_SITES = 6  # calls of one kind that are tried one by one
# Runs that a search makes on each side: so many numbers in all, and the commonest mistakes whatever they cost.
_NUMBERS, _FEWEST = 1 << 24, 32
_TIED = 1.1  # two epsilons leave the same where their remainders are not further apart


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


@dataclass(frozen=True)
class _Found:
    """A change, at one call of those that it can be made at, or at all of them."""

    intervention: Intervention
    site: int | None
    sites: int

    def mode(self) -> _Changed:
        return _Changed(self.intervention.change, self.site)


@dataclass(frozen=True)
class _Side:
    """Where changes are made. said: what is then true. run: how large the error is with one there."""

    said: str
    reach: Reach
    run: Callable[[_Changed], Measured | None]

    def explained(self, mode: _Changed) -> bool:
        return self.reach.explains(self.run(mode))


def guesses_by_trying(reach: Reach, name: str, sides: Sides) -> list[str]:
    """At most one: the first that explains all of the error.

    Of a large output a part is searched, where both sides give the same on that alone, and what is found there is tried
    on all of it. What cannot be cut is searched less far, the commonest mistakes first.
    """
    if reach.before() is None:
        return []
    whole = Part(reach, sides)
    part = smaller(reach, name, sides) or whole
    exchanged = dict(_of_inputs(sides))
    for words, changed in _of_inputs(part.sides):
        if _with_inputs(part, name, changed) and (part is whole or _with_inputs(whole, name, exchanged[words])):
            return [f"with {words} the reference gives what the candidate gives"]
    trials = max(_FEWEST, _NUMBERS // part.numbers())
    for side, on_whole in zip(_sides(part, name), _sides(whole, name), strict=True):
        for found in islice(_tried(side), trials):
            if found is not None and (part is whole or on_whole.explained(found.mode())):
                return [f"with {_words(found, side)} the {side.said}"]
    return []


def _tried(side: _Side) -> Iterator[_Found | None]:
    """Something for each run: a change that explains the error, or nothing."""
    for intervention in interventions():
        everywhere = _Changed(intervention.change)
        explained = side.explained(everywhere)
        yield _Found(intervention, None, everywhere.seen) if explained else None
        for site in range(min(everywhere.seen, _SITES) if everywhere.seen > 1 else 0):
            found = _Found(intervention, site, everywhere.seen)
            yield found if side.explained(found.mode()) else None


def _words(found: _Found, side: _Side) -> str:
    where = f" (in call {found.site + 1} of {found.sites} alone)" if found.site is not None else ""
    if found.intervention.epsilon is None:
        return found.intervention.words + where
    return f"an epsilon of {_epsilon(found, side)}{where}"


def _epsilon(found: _Found, side: _Side) -> str:
    """That which leaves the least. Where none at all leaves no more, it can only be said how large it is at most."""
    left = {}
    for other in interventions():
        after = side.run(replace(found, intervention=other).mode()) if other.epsilon is not None else None
        if after is not None and side.reach.explains(after):
            left[other.epsilon] = after.whole
    tied = [eps for eps, whole in left.items() if eps is not None and whole <= _TIED * min(left.values())]
    return f"at most {max(tied):g}" if len(tied) > 1 and 0.0 in tied else f"{min(left, key=lambda eps: left[eps]):g}"


def _sides(part: Part, name: str) -> Iterator[_Side]:
    """The reference first: in float64 it is the quicker one to be right about."""
    reach, sides = part.reach, part.sides

    def in_reference(mode: _Changed) -> Measured | None:
        return _reached(reach, name, lambda: exact_outputs(sides.reference, sides.call, [mode]), mode)

    def in_candidate(mode: _Changed) -> Measured | None:
        made = _given(lambda: candidate_outputs(sides.candidate, sides.call, False, [mode]), name)
        return None if made is None or not mode.seen else reach.after(reach.exact.values, made.values)

    yield _Side("reference gives what the candidate gives", reach, in_reference)
    if not sides.numpy:
        yield _Side("candidate gives what the reference gives", reach, in_candidate)


def _with_inputs(part: Part, name: str, call: Call) -> bool:
    return part.reach.explains(_reached(part.reach, name, partial(exact_outputs, part.sides.reference, call)))


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
