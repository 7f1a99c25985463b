"""Which family of recipes a quantised file belongs to, told by what it holds and not by what its recipe is called.

In: a file and where its taps are. Out: one of `harness/names/recipe_families.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.align.views import TapSource
from harness.align.weights import LINEAR, LayerWeight, file_weights
from harness.flatbuffer.quantised import Grid, grid_of
from harness.flatbuffer.reader import FlatbufferModel
from harness.names.recipe_families import family_of


def quantises_input(weight: LayerWeight, grid: Grid) -> bool:
    """Whether a layer multiplies whole numbers: it takes narrow ones, and quantises its input row by row."""
    return weight.narrow and not weight.static and weight.operator.kind == LINEAR and bool(grid.granularity)


def file_family(file: FlatbufferModel, plans: Mapping[str, Mapping[str, TapSource]]) -> str:
    """Of all signatures together, over the layers that can be told; those that cannot crash the fake-quantised stage.

    plans: signature -> tap -> where it is. Raises ValueError for a quantisation that is not known.
    """
    bits: set[int] = set()
    inputs_quantised = False
    for graph, weight in file_weights(file, plans):
        grid = grid_of(file, graph, weight.constant)
        bits.add(grid.bits)
        inputs_quantised |= quantises_input(weight, grid)
    return family_of(bits, inputs_quantised)
