"""Whether a checkpoint has the sizes that a declaration speaks of.

In: a checkpoint's config, and a model's declaration. Out: nothing, or a UsageError of one line: weights of other sizes
fit no part of the re-authored model, and every part would complain by itself. So do those that a wrong size in the
re-authored config keeps from being loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from harness.errors import UsageError
from harness.spec.model import Model
from harness.spec.route import route_of
from harness.weights.configs import published_config
from harness.weights.families import Sizes, sizes_of

_WORDS = {
    "vocab": "vocabulary",
    "layers": "layers",
    "hidden": "hidden size",
    "intermediate": "MLP width",
    "heads": "heads",
    "kv_heads": "KV heads",
    "head_dim": "head width",
}


def refuse_other_sizes(model: Model, shown: str, config: Any, layers: int | None = None) -> None:
    """shown: what a person calls the checkpoint. config: its own. layers: how many are run of the model, None for all.

    A size that the re-authored config has, or the published one, is taken: if the two differ, the audit tells.
    Raises UsageError for any other.
    """
    found, declared = sizes_of(config), sizes_of(published_config(model))
    own = route_of(model).full_sizes(model)
    wrong = [name for name in _WORDS if getattr(found, name) not in (getattr(declared, name), getattr(own, name))]
    if found.layers == layers:
        wrong = [name for name in wrong if name != "layers"]
    if not wrong:
        return
    said = ", ".join(f"{_WORDS[name]} {getattr(found, name):,}" for name in wrong)
    instead = ", ".join(f"{getattr(declared, name):,}" for name in wrong)
    what = "the resized vocabulary" if wrong == ["vocab"] else "its sizes"
    fields = "`published` and in `config`" if has_own_config(model) else "`published`"
    remedy = f"declare {what} in a spec of your own, in {fields} (docs/adding-a-model.md)"
    if wrong == ["layers"] and found.layers < declared.layers:
        remedy = f"run the model's first ones with --layers {found.layers}"
    raise UsageError(
        f"{shown}: {said}, the declaration of {model.name} says {instead}; "
        f"give a checkpoint of {model.hf_id}, or {remedy}"
    )


def has_own_config(model: Model) -> bool:
    """Whether a declaration has the sizes of the route's version in a config of its own; else they are the published
    ones, as a loader reads them."""
    return any(field.name == "config" for field in dataclasses.fields(model))


def refuse_sizes_that_cannot_load(model: Model, own: Sequence[Sizes], published: Any, why: str) -> None:
    """own: the sizes of each block of the route's model. published: the checkpoint's config. why: its weights cannot be
    loaded.

    Raises UsageError that names every size in which the two differ; nothing is raised where none does.
    """
    text = published.get_text_config()
    wrong: dict[str, tuple[int, int]] = {}
    for block, ours in enumerate(own[: sizes_of(text).layers]):
        theirs = sizes_of(text, block)
        for size in _WORDS:
            if getattr(ours, size) != getattr(theirs, size):
                wrong.setdefault(size, (getattr(ours, size), getattr(theirs, size)))
    if not wrong:
        return
    said = ", ".join(f"{_WORDS[size]} {mine:,} for {other:,}" for size, (mine, other) in wrong.items())
    raise UsageError(
        f"{model.name}: the re-authored config has other sizes than the published one ({said}), and cannot take its "
        f"weights ({why}); {'fix' if has_own_config(model) else 'give'} "
        f"'{'config' if has_own_config(model) else 'load'}' in the model's spec file"
    )
