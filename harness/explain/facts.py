"""The structure of the model that a run's checkpoint holds: what the reference of every hypothesis rests on.

In: a declaration and a checkpoint folder. Out: the `Structure` and the modules that hold each role's weights. Builds
the published model without memory and runs a small one once, as the config audit does.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

from harness.audit.audit import published_placement
from harness.audit.published import build_published, published_structure
from harness.audit.structure import Structure
from harness.explain.roles import module_paths
from harness.spec.model import Model
from harness.spec.route import route_of
from harness.weights.configs import hf_config
from harness.weights.miniature import shrunk_hf_config


def checkpoint_structure(model: Model, folder: Path) -> tuple[Structure, dict[str, str]]:
    """(structure, role -> module path). Raises UsageError for a config that transformers cannot build."""
    import torch

    config = hf_config(folder)
    held = dataclasses.replace(model, published=lambda: copy.deepcopy(config))
    with torch.random.fork_rng():
        placement = published_placement(held, shrunk_hf_config(held))
    names = route_of(model).names(model)
    structure = published_structure(config, names, placement, build_published(config))
    return structure, module_paths(names, structure)
