"""The audit of a model's configs: everything about the two structures that no weight is needed for.

In: a model's declaration, and the published config or a checkpoint's own. Out: findings of kind "config".
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from harness.audit.differences import differences, reason, roundings, unaudited
from harness.audit.honoured import ignored_settings, published_windows
from harness.audit.placement import Placement, unknown_placement, watch
from harness.audit.probes import LENGTH
from harness.audit.published import build_published, hf_places, published_structure
from harness.audit.vocabulary import unknown_settings
from harness.errors import UsageError
from harness.record.record import Finding
from harness.spec.model import Model
from harness.spec.route import route_of
from harness.weights.configs import published_config, quiet_transformers
from harness.weights.miniature import shrunk_hf_config


def audit_configs(model: Model, published: Any = None, network: Any = None) -> list[Finding]:
    """Compare the published config with the route's own, field by field. No weights are read.

    published: a checkpoint's own Hugging Face config, in place of the model's. network: what `build_published` makes
    of it, where it is there already. Raises UsageError for a config that transformers cannot build.
    """
    if published is not None:
        model = dataclasses.replace(model, published=lambda: copy.deepcopy(published))
    try:
        return list(_findings(model, network))
    except UsageError:
        raise
    except Exception as error:  # an architecture that is put together as none is here
        return [unaudited("the config", reason(error))]


def _findings(model: Model, network: Any) -> Iterator[Finding]:
    import torch

    route = route_of(model)
    published, own, names = published_config(model), route.audited(model), route.names(model)
    with torch.random.fork_rng(), _one_thread():
        theirs = published_placement(model, shrunk_hf_config(model))
        exact = published_structure(published, names, theirs, network or build_published(published))
        yield from differences(exact, own.structure(), route.stage)
        if (half := _declared_half(published)) is not None:
            network = build_published(published, half)
            yield from roundings(exact, published_structure(published, names, theirs, network, half), half)
        yield from (unaudited(name, why) for name, why in unknown_settings(published))
        try:
            yield from own.ignored()
        except Exception as error:
            yield unaudited("what the model's class ignores", f"its miniature does not run: {reason(error)}")


def _declared_half(config: Any) -> str | None:
    """ "bfloat16" or "float16" where a config says that its weights are."""
    named = str(getattr(config.get_text_config(), "dtype", None)).removeprefix("torch.")
    return named if named in ("bfloat16", "float16") else None


@contextmanager
def _one_thread() -> Iterator[None]:
    """These tensors are so small that handing them to other threads takes longer than the work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def published_placement(model: Model, small: Any) -> Placement:
    """How the published model wires its blocks and which settings it acts on, seen in runs of a small one.

    small: from `shrunk_hf_config`.
    """
    placement = _watched(model, small)
    unaudited = dict(placement.unaudited)
    try:
        placement = replace(placement, ignored=ignored_settings(small))
    except Exception as error:
        unaudited |= dict.fromkeys(("alibi", "softcap"), f"the published miniature does not run ({reason(error)})")
    try:
        placement = replace(placement, windows=published_windows(model))
    except Exception as error:
        unaudited["window"] = f"the published miniature does not run ({reason(error)})"
    return replace(placement, unaudited=unaudited)


def _watched(model: Model, small: Any) -> Placement:
    """How the published model wires its blocks, seen in one run of a small one."""
    import torch
    import transformers

    factory: Any = transformers.AutoModelForCausalLM
    small.num_hidden_layers = min(1, small.num_hidden_layers)
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:1]
    try:
        with quiet_transformers():
            network = factory.from_config(small, trust_remote_code=False)
            tokens = torch.arange(1, LENGTH + 1).unsqueeze(0)
            places = hf_places(route_of(model).names(model))
            return watch(network.eval(), places, lambda: network(tokens, use_cache=False))
    except Exception as error:
        return unknown_placement(f"the published miniature cannot be built ({reason(error)})")
