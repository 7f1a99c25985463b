"""What the gate runs: which model, with which options of `edge-parity run`, and which hops are asked.

In: the options of `pytest suites/`. Out: entries; those with the same options run in one process, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.judge.known_defects import load_defects
from harness.names.recipes import Recipe
from harness.names.stages import BUILTIN, REFERENCE, Hop, hops_of, route_stages, standard_hops
from harness.names.stages import REAUTHORED as OWN
from harness.pipeline.options import Options, stages_of
from harness.spec.find import extra_of, main_models, own_stage, registered
from harness.spec.model import SpecRef
from harness.spec.recipes import check_read

REAUTHORED = tuple(hop for hop in standard_hops() if hop.candidate == "reauthored")
UPSTREAM = Path(__file__).parent / "upstream"  # declarations that show what is wrong there, and what avoids it


@dataclass(frozen=True)
class Entry:
    """One run of the gate.

    model: what `edge-parity run` takes. name: what the tests' ids call it. options: further words of the command.
    further: tests of the harness show as much of it, so `make test` leaves it to CI.
    extra: of the distribution that it needs; without it the entry is skipped.
    """

    model: str
    name: str
    options: tuple[str, ...] = ()
    hops: tuple[Hop, ...] = hops_of(route_stages(OWN))
    further: bool = False
    extra: str = ""


def named(refs: Iterable[SpecRef], miniature: bool, recipes: tuple[Recipe, ...] = (), words: str = "") -> list[Entry]:
    """All hops of the models that somebody asks for; a model named twice is run once.

    recipes: of quantised files that are gated too, and `words`, by which `edge-parity run` is told of them. Raises
    UsageError for a recipe that a model has not.
    """
    small = ("--miniature",) if miniature else ()
    found = {called(ref): ref for ref in refs}
    for ref in found.values() if recipes else ():
        check_read(recipes, ref)
    return [_of_route(ref, _quantised(model, ref.name, small, recipes, words)) for model, ref in found.items()]


def _of_route(ref: SpecRef, entry: Entry) -> Entry:
    """The entry with the hops of its model's route."""
    own = own_stage(ref)
    if own == OWN:
        return entry
    return replace(entry, hops=hops_of(route_stages(own)), extra=extra_of(ref))


def _quantised(
    model: str,
    name: str,
    options: tuple[str, ...],
    recipes: tuple[Recipe, ...],
    words: str,
    stages: tuple[str, ...] = route_stages(OWN),
    further: bool = False,
) -> Entry:
    """A model and its quantised files in one run: what each recipe costs and what each runtime does are hops of it."""
    if not recipes:
        return Entry(model, name, options)
    told = ("--quantize", words, *(() if stages == route_stages(OWN) else ("--stages", ",".join(stages))))
    hops = hops_of(stages_of(Options(model=model, stages=stages, quantize=recipes)))
    return Entry(model, name, (*options, *told), hops, further)


def default_plan() -> list[Entry]:
    """What `pytest suites/` runs: trained weights through all hops, as a quantised file too, and of every other kind of
    model a miniature.

    Conversion is what takes time and memory, so miniatures go through it only where it is known to matter. Beside the
    models stand the declarations that show what is wrong upstream. `make test` leaves to CI the miniatures without a
    listed defect, whose PyTorch hop tests/stages/test_models.py takes as well, what tests/stages/test_families.py
    converts, the four bits, and all but the widest at full width.
    """
    small, quick = ("--miniature",), ("--miniature", "--stages", "reauthored")
    whole = [_quantised(name, name, (), (Recipe(recipe),), recipe) for name, recipe in TRAINED.items()]
    whole += [Entry(name, name, (*small, *(EDGES if name in WITH_EDGES else ()))) for name in CONVERTED]
    whole += [Entry(str(file), file.stem, (*quick, *EDGES), REAUTHORED) for file in SCALED]
    whole += [Entry(name, f"{name},{variant}", (*small, *options), further=True) for name, variant, options in VARIANTS]
    whole += [
        Entry(model, f"{Path(model).stem},layers=2", ("--layers", "2"), further=Path(model).stem != WIDEST)
        for model in WIDE
    ]
    whole += [_kernels(name, recipe, small) for name, recipe in REFERENCE_KERNELS]
    others = {name: ref for name, ref in main_models().items() if own_stage(ref) != OWN}
    whole += [_of_route(ref, Entry(name, name, small)) for name, ref in others.items()]
    rest = [name for name in main_models() if name not in (*TRAINED, *CONVERTED, *others)]
    listed = dict.fromkeys(
        place.model
        for defect in load_defects()
        for place in defect.place
        if not place.hop or Hop.parse(place.hop) in REAUTHORED
    )
    rest += [name for name in listed if name in registered() and name not in main_models()]
    return [
        *whole,
        *(Entry(name, name, quick, REAUTHORED, further=name not in listed) for name in rest),
        *(Entry(str(file), file.stem, quick, REAUTHORED) for file in sorted(UPSTREAM.glob("[!_]*.py"))),
    ]


TRAINED = {"smollm2": "dynamic_int8"}  # and the recipe by which it ships
# The second has a known defect in its conversion, and the first variant below is the remedy for it; the other shows two
# defects of its own.
CONVERTED = ("tiny_llama", "gemma1")
# The ends of the context and what lies past every prefill, beside the default inputs: no test of its own, but none of
# the run's passes where one of them does not.
EDGES, WITH_EDGES = ("--edges",), ("tiny_llama",)
VARIANTS = (
    ("gemma1", "kv=transposed", ("--kv-layout", "transposed")),
    ("gemma2", "mask-as-input", ("--mask-as-input",)),
)
# The boundary of a scaled rope within the KV cache: that of a published model lies far beyond it.
SCALED = sorted((Path(__file__).parent / "edges").glob("[!_]*.py"))
# Their first two layers at full width, where device kernels add thousands of terms: trained weights, and random ones.
WIDE = ("smollm2", *(str(file) for file in sorted((Path(__file__).parent / "full_width").glob("[!_]*.py"))))
WIDEST = "tiny_llama"
# Reference kernels, which nobody ships, on a quantised file: a known defect.
REFERENCE_KERNELS = (("tiny_llama", "dynamic_int4_block32"),)


def _kernels(name: str, recipe: str, options: tuple[str, ...]) -> Entry:
    stages = ("reauthored", BUILTIN, REFERENCE)
    return _quantised(name, f"{name},{recipe}", options, (Recipe(recipe),), recipe, stages, further=True)


def called(ref: SpecRef) -> str:
    """What `edge-parity run` takes for a declaration."""
    if registered().get(ref.name) == ref:
        return ref.name
    return f"{ref.file.resolve()}:{ref.variable}"
