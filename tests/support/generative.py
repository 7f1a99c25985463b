"""The models of litert-torch's Generative API among those of `models/`: what most tests of models are about."""

from __future__ import annotations

from harness.names.stages import REAUTHORED
from harness.spec.find import main_models, own_stage, registered
from harness.spec.model import SpecRef


def generative() -> dict[str, SpecRef]:
    """All of them, by name."""
    return {name: ref for name, ref in registered().items() if own_stage(ref) == REAUTHORED}


def generative_main() -> dict[str, SpecRef]:
    """The first of every file."""
    return {name: ref for name, ref in main_models().items() if own_stage(ref) == REAUTHORED}
