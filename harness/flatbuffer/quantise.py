"""Quantise a float32 flatbuffer by a recipe, with ai-edge-quantizer: seconds, where a conversion takes minutes.

In: a file and rules. Out: another file. litert-torch's own modes do the same to the file that they convert, bit for
bit.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from harness.errors import UsageError
from harness.names.recipes import Rules

QUANTISER = "ai-edge-quantizer"


def quantise(source: Path, rules: Rules, target: Path, recipe: str) -> None:
    """Write the quantised file. recipe: its name, for messages. Raises UsageError for rules that cannot be applied."""
    from ai_edge_quantizer import quantizer

    try:
        made = quantizer.Quantizer(str(source), rules).quantize().quantized_model
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:300]
        raise UsageError(f"--quantize {recipe}: {QUANTISER} refuses it ({said}); fix the recipe") from None
    target.write_bytes(made)


def quantiser_version() -> str:
    return f"{QUANTISER} {version(QUANTISER)}"


def known_recipe(name: str) -> Rules | None:
    """The rules of a recipe that ai-edge-quantizer has a name for, `dynamic_wi4_afp32`, with or without `_afp32`.

    None for a name that it has not.
    """
    from ai_edge_quantizer import recipe

    for known in (name, f"{name}_afp32"):
        made = getattr(recipe, known, None)
        if callable(made) and known.startswith(("dynamic_", "weight_only_", "static_")):
            return list(made())
    return None
