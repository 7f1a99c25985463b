"""Square matrices that a signature which is never run reads the wrong way round.

In: constants with the parameters that they hold. Out: what is wrong, in words. Pure.

A converter stores a matrix as it is or transposed, as the operator takes it that reads it. Where a signature is run, a
matrix that is the wrong way round shows in its numbers, whatever its shape. Where it is not run, only a shape would
show it, and a square one does not: there the operators of the signatures that are run say which way round is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.audit.named_constants import NamedConstant
from harness.flatbuffer.reads import Use
from harness.flatbuffer.signatures import can_run


def turned_round(constants: Sequence[NamedConstant]) -> Iterator[tuple[str, str]]:
    """(parameter, a sentence) for each constant that a signature takes the other way round than those that are run.

    A parameter that no operator known here reads in a signature that is run is left alone.
    """
    right: dict[str, set[bool]] = {}
    for constant in constants:
        for use in constant.read.uses:
            for parameter in constant.holds if can_run(use.signature) else ():
                right.setdefault(parameter, set()).add(_as_stored(constant, parameter, use))
    for constant in constants:
        for parameter in constant.holds:
            for use in constant.read.uses:
                known = right.get(parameter)
                if known and not can_run(use.signature) and _as_stored(constant, parameter, use) not in known:
                    held = "transposed" if parameter in constant.turned else "as it is"
                    yield (
                        parameter,
                        f"constant {constant} holds {parameter} {held}, and {use.kind} of signature {use.signature} "
                        "takes it the other way round",
                    )
                    break


def _as_stored(constant: NamedConstant, parameter: str, use: Use) -> bool:
    """Whether an operator takes as outputs what the checkpoint has as rows."""
    return use.rows_out == (parameter not in constant.turned)
