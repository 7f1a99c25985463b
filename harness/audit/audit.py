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

from harness.audit.differences import differences, roundings, unaudited
from harness.audit.honoured import ignored_settings, published_windows
from harness.audit.placement import REAUTHORED_PLACES, Placement, unknown_placement, watch
from harness.audit.published import build_published, hf_places, published_structure
from harness.audit.vocabulary import unknown_settings
from harness.errors import UsageError
from harness.record.record import Finding
from harness.spec.model import GenerativeModel
from harness.stages.litert_torch.ignored_fields import ignored_fields
from harness.stages.litert_torch.structure import reauthored_structure
from harness.stages.litert_torch.tiny import LENGTH, Tiny, probe_config
from harness.weights.configs import full_reauthored_config, published_config, quiet_transformers
from harness.weights.miniature import shrink


def audit_configs(
    model: GenerativeModel, published: Any = None, reauthored: Any = None, network: Any = None
) -> list[Finding]:
    """Compare the published config with the re-authored one, field by field. No weights are read.

    published: a checkpoint's own Hugging Face config, in place of the model's. reauthored: a `ModelConfig` in place of
    the model's, for a checkpoint of a miniature's sizes. network: what `build_published` makes
    of the former, where it is there already. Raises UsageError for a config that transformers cannot build.
    """
    if published is not None:
        model = dataclasses.replace(model, published=lambda: copy.deepcopy(published))
    if reauthored is not None:
        model = dataclasses.replace(model, config=lambda: copy.deepcopy(reauthored))
    try:
        return list(_findings(model, network))
    except UsageError:
        raise
    except Exception as error:  # an architecture that is put together as none is here
        return [unaudited("the config", _reason(error))]


def _findings(model: GenerativeModel, network: Any) -> Iterator[Finding]:
    import torch

    published, reauthored = published_config(model), full_reauthored_config(model)
    small_published, small_reauthored = shrink(model)
    tiny = Tiny(model.model_class)
    with torch.random.fork_rng(), _one_thread():
        theirs = published_placement(model, small_published)
        ours = _reauthored_placement(tiny, small_reauthored)
        exact = published_structure(published, model.tensor_names, theirs, network or build_published(published))
        yield from differences(exact, reauthored_structure(reauthored, ours))
        if (half := _declared_half(published)) is not None:
            network = build_published(published, half)
            yield from roundings(exact, published_structure(published, model.tensor_names, theirs, network, half), half)
        yield from (unaudited(name, why) for name, why in unknown_settings(published))
        try:
            yield from ignored_fields(tiny, small_reauthored, reauthored)
        except Exception as error:
            yield unaudited("what the model's class ignores", f"its miniature does not run: {_reason(error)}")


def _declared_half(config: Any) -> str | None:
    """ "bfloat16" or "float16" where a config says that its weights are."""
    named = str(getattr(config.get_text_config(), "dtype", None)).removeprefix("torch.")
    return named if named in ("bfloat16", "float16") else None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


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


def published_placement(model: GenerativeModel, small: Any) -> Placement:
    """How the published model wires its blocks and which settings it acts on, seen in runs of a small one.

    small: from `shrunk_hf_config`.
    """
    placement = _watched(model, small)
    unaudited = dict(placement.unaudited)
    try:
        placement = replace(placement, ignored=ignored_settings(small))
    except Exception as error:
        unaudited |= dict.fromkeys(("alibi", "softcap"), f"the published miniature does not run ({_reason(error)})")
    try:
        placement = replace(placement, windows=published_windows(model))
    except Exception as error:
        unaudited["window"] = f"the published miniature does not run ({_reason(error)})"
    return replace(placement, unaudited=unaudited)


def _watched(model: GenerativeModel, small: Any) -> Placement:
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
            return watch(network.eval(), hf_places(model.tensor_names), lambda: network(tokens, use_cache=False))
    except Exception as error:
        return unknown_placement(f"the published miniature cannot be built ({_reason(error)})")


def _reauthored_placement(tiny: Tiny, small: Any) -> Placement:
    config = probe_config(small)
    try:
        network = tiny.build(config)
    except Exception as error:
        return unknown_placement(f"the re-authored miniature cannot be built ({_reason(error)})")
    return watch(network, REAUTHORED_PLACES, lambda: tiny.run(network, config))
