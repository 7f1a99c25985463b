"""Names of many tensors in few words.

In: keys of a checkpoint. Out: one short text, in which like names of many blocks are one. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_SHOWN = 4


def names_text(keys: Iterable[str]) -> str:
    """Of 22 keys in 22 blocks: "model.layers.{0-21}.self_attn.k_scale".

    Of whole blocks: "model.layers.{20-21}.input_layernorm.weight, ... (18 tensors)".
    At most four such groups are named, and how many more there are.
    """
    blocks: dict[str, set[int]] = {}
    for key in sorted(keys):
        found = _NUMBER.search(key)
        name = key if found is None else f"{key[: found.start()]}{{}}{key[found.end() :]}"
        blocks.setdefault(name, set()).update([] if found is None else [int(found.group())])
    alike: dict[tuple[str, frozenset[int]], list[str]] = {}
    for name, numbers in blocks.items():
        alike.setdefault((name.partition("{}")[0] if numbers else name, frozenset(numbers)), []).append(name)
    texts = [_group(numbers, names) if numbers else start for (start, numbers), names in alike.items()]
    more = f" and {len(texts) - _SHOWN} more such groups" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def _group(numbers: frozenset[int], names: list[str]) -> str:
    which = number_text(sorted(numbers))
    if len(numbers) > 1:
        which = f"{{{which}}}"
    shown = [name.replace("{}", which, 1) for name in names]
    return ", ".join(shown) if len(shown) < 3 else f"{shown[0]}, ... ({len(names) * len(numbers)} tensors)"


def number_text(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
