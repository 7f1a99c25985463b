"""A declaration of this route with a fault in it.

In: a declaration and the site of a fault. Out: another declaration. Pure.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.bench.breaking import Change
from harness.bench.mistake import Config, Loader, Names, Site
from harness.spec.route import RouteModel
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.loader import run_loader
from harness.stages.litert_torch.model import ReauthoredModel


def with_fault(model: GenerativeModel, site: Site, own: RouteModel) -> GenerativeModel | None:
    """None for a fault that is in no declaration. own: the model at the sizes that it is loaded with."""
    if isinstance(site, Config):
        return other_config(model, site.change)
    if isinstance(site, Names):
        names = dataclasses.replace(model.tensor_names, **site.entries(model.tensor_names))
        return dataclasses.replace(model, tensor_names=names)
    if isinstance(site, Loader):
        assert isinstance(own, ReauthoredModel)
        return dataclasses.replace(model, load_weights=_loader(own, site))
    return None


def other_config(model: GenerativeModel, change: Change) -> GenerativeModel:
    """The model with another re-authored config: `change` gets the example's own, fresh."""

    def config() -> Any:
        made = model.config()
        change(made)
        return made

    return dataclasses.replace(model, config=config)


def _loader(own: ReauthoredModel, site: Loader) -> Any:
    def load(checkpoint: dict[str, Any]) -> dict[str, Any]:
        made = dict(run_loader(own.declared, own.config, checkpoint).converted)
        checkpoint.clear()
        site.change(made)
        return made

    return load
