"""Whose a fault can be beside a step of the pipeline: of what the pipeline was given. Pure."""

from __future__ import annotations

CHECKPOINT, RECIPE, SPEC = "checkpoint", "recipe", "spec"
