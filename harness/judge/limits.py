"""The figures that a tolerance rule may limit, and whether its limits limit anything.

In: the limits of one rule. Out: what is wrong with them, in words; how they are looser than others. Pure.

A limit limits something if it is finite and if a tap that holds nothing right can break it: zeros in place of a tap
have a `rel_l2` of 1, an SNR of 0 dB and a cosine of 0, whatever the tap holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness.names.figures import (
    ABSOLUTE,
    COUNTS,
    DIVERGENCE,
    LOWER,
    OF_THE_ERROR,
    OVER_FLOOR,
    PERPLEXITY_RATIO,
    UPPER,
)

# The `noise_floor` of a rule that counts in units of the floor and names none.
NOISE_FLOOR = 1e-3
# From here on a limit limits nothing, and why.
_ENDS: Mapping[str, tuple[float, str]] = {
    "rel_l2": (1.0, "zeros in place of the tap have 1"),
    "snr_db": (0.0, "zeros in place of the tap have 0 dB"),
    "cosine": (0.0, "zeros in place of the tap have 0"),
    "noise_floor": (1.0, "the reference itself would be all error"),
    "max_abs_err": (65504.0, "it is beyond the largest number of float16"),
    "mean_abs_err": (65504.0, "it is beyond the largest number of float16"),
    **dict.fromkeys(DIVERGENCE, (math.log(2**18), "a guess among 262,144 tokens costs as much")),
    PERPLEXITY_RATIO: (2.0**18, "a guess among 262,144 tokens is no worse"),
    "top1_agreement": (0.0, "no token at all need agree"),
}
# Half of the positions may hold anything under a limit on `kl_p50`.
_OF_A_PRICE = DIVERGENCE - {"kl_p50"}
# Beyond these nothing passes.
_HIGHEST: Mapping[str, float] = {"cosine": 1.0, "top1_agreement": 1.0}


def whole(limits: Mapping[str, float]) -> dict[str, float]:
    """The limits with those that hold where a rule says nothing: on the noise floor, and on NaN and infinity."""
    floor = {"noise_floor": NOISE_FLOOR} if OVER_FLOOR & limits.keys() else {}
    return {**floor, **dict.fromkeys(sorted(COUNTS), 0.0), **limits}


def useless(limits: Mapping[str, float], of_a_price: bool = False) -> str:
    """What is wrong with a rule whose limits pass anything, or nothing; empty where they limit the error.

    of_a_price: whether the rule judges what recipes cost and nothing else. That is told by the distribution over tokens
    alone; a fault is not, for one that these inputs do not show in the logits may show in others.
    """
    floor = limits.get("noise_floor", NOISE_FLOOR)
    for name in sorted(limits, key=lambda name: name != "noise_floor"):  # the others are measured by it
        if said := _useless(name, limits[name], floor):
            return f"{name} = {limits[name]:g} {said}"
    enough = OF_THE_ERROR | (_OF_A_PRICE if of_a_price else frozenset())
    if not enough & limits.keys():
        return (
            f"{' and '.join(limits)} alone {'limits' if len(limits) == 1 else 'limit'} no tap's error on every input, "
            "so the rule would pass anything; give it excess = 4.0 as well, or one of "
            f"{', '.join(sorted(OF_THE_ERROR - {'excess'}))}"
            + (f"; what a recipe costs may be limited by {', '.join(sorted(_OF_A_PRICE))}" if of_a_price else "")
        )
    return ""


def _useless(name: str, limit: float, floor: float) -> str:
    if math.isinf(limit):
        return "limits nothing, since it is not finite; give a number, or leave it out"
    if name in OVER_FLOOR:
        # Zeros in place of the tap have an excess of 1 / its noise floor.
        end = 1 / floor if floor else math.inf
        why = f"with a noise floor at its limit of {floor:g} that is an error as large as the tap"
    else:
        end, why = _ENDS.get(name, (math.inf, ""))
    if limit <= end if name in LOWER else limit >= end:
        return f"limits nothing: {why}; give {'more' if name in LOWER else 'less'} than {end:.4g}"
    if name in UPPER and limit < 0:
        return "passes nothing, since it is never below 0; give 0 or more"
    if limit > _HIGHEST.get(name, math.inf):
        return f"passes nothing, since it is never above {_HIGHEST[name]:g}; give that or less"
    return ""


def blind(limits: Mapping[str, float], scale: float) -> str:
    """Why a rule with absolute limits alone limits nothing at a tap of this size; empty where it does.

    scale: the root mean square of the tap's values in the reference.
    """
    own = {name: limit for name, limit in limits.items() if name in OF_THE_ERROR}
    if not own or own.keys() - ABSOLUTE or not all(limit >= scale for limit in own.values()):
        return ""
    given = " and ".join(f"{name} {limit:g}" for name, limit in own.items())
    return f"{given} limits nothing here: the tap's values have a root mean square of {scale:.3g}"


def looser(limits: Mapping[str, float], than: Mapping[str, float]) -> list[str]:
    """Each figure on which limits are looser than others, with both: `excess 100 instead of 4`."""
    mine, theirs = whole(limits), whole(than)
    found = []
    for name, limit in theirs.items():
        if name not in mine:
            found.append(f"no {name}")
        elif (mine[name] < limit) if name in LOWER else (mine[name] > limit):
            found.append(f"{name} {mine[name]:g} instead of {limit:g}")
    return found
