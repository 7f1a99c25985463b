"""Quantised files of a run: what each recipe costs, and what the runtimes do with its file. In: the record. Out: words.

Two things that one SNR mixes: the price is the recipe's, and no fault; the error is the runtime's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.names.owners import RECIPE
from harness.names.stages import BUILTIN, FAKEQUANT_BUILTIN, FLOAT, REFERENCE, XNNPACK, Floor, split
from harness.plain import clean
from harness.record.record import HopResult, QuantisedLayer, RecipeResult, Record
from harness.render.numbers import compared, number, ratio_text, worst_excess
from harness.render.sentences import snr_figure

_KERNELS = {XNNPACK: "XNNPACK", BUILTIN: "builtin kernels", REFERENCE: "reference kernels"}


@dataclass(frozen=True)
class RecipeGroup:
    """A recipe with its hops. name: empty for the hops of the float32 file and before it."""

    name: str
    result: RecipeResult | None
    hops: tuple[HopResult, ...]

    @property
    def prices(self) -> list[HopResult]:
        """What the recipe costs: one hop, or two where the runtimes quantise inputs in two ways."""
        return [hop for hop in self.hops if hop.hop.floor is Floor.PRICE]

    @property
    def runtimes(self) -> list[HopResult]:
        """What each runtime does with the file's own numbers, and kernels held against each other."""
        return [hop for hop in self.hops if hop.hop.floor is not Floor.PRICE]

    @property
    def distinct_prices(self) -> list[HopResult]:
        """Without the second where both are the same: a file that quantises no inputs."""
        prices = self.prices
        same = len(prices) == 2 and (prices[0].logits, prices[0].lowest_snr) == (prices[1].logits, prices[1].lowest_snr)
        return prices[:1] if same else prices

    @property
    def chains(self) -> list[tuple[HopResult | None, HopResult | None]]:
        """The two hops of each runtime, its price and its error; of what has no partner in the run, one alone."""
        prices = {hop.to: hop for hop in self.prices}
        runtimes = [(prices.get(hop.from_), hop) for hop in self.runtimes]
        judged = {hop.from_ for hop in self.runtimes}
        return [*runtimes, *((hop, None) for to, hop in prices.items() if to not in judged)]

    @property
    def worst_layers(self) -> list[QuantisedLayer]:
        """Those that lose most of their weight first; what is not known stands above all."""
        layers = [] if self.result is None else self.result.layers
        return sorted(layers, key=lambda layer: float("inf") if layer.error is None else layer.error, reverse=True)


def hop_groups(record: Record) -> list[RecipeGroup]:
    """All hops in order: first those without a recipe, then each recipe's."""
    results = {result.name: result for result in record.recipes}
    hops: dict[str, list[HopResult]] = {"": []}
    for hop in record.hops:
        recipe = split(hop.to)[1]
        hops.setdefault("" if recipe == FLOAT else recipe, []).append(hop)
    for name in results:
        hops.setdefault(name, [])
    return [RecipeGroup(name, results.get(name), tuple(of)) for name, of in hops.items() if of or name]


def recipe_groups(record: Record) -> list[RecipeGroup]:
    """Those of recipes alone."""
    return [group for group in hop_groups(record) if group.name]


def size_words(group: RecipeGroup) -> str:
    """`272 MB of 541 MB`, of the file and of the float32 file; empty in records that do not say."""
    result = group.result
    if result is None or result.mb is None:
        return ""
    of = "" if result.float32_mb is None else f" of {number(result.float32_mb)} MB"
    return f"{number(result.mb)} MB{of}"


def recipe_words(group: RecipeGroup) -> str:
    """All of a recipe in a sentence: its size, what it costs, and what the runtimes make of its file."""
    prices = [price_words(hop, short=i > 0) for i, hop in enumerate(group.distinct_prices)]
    said = [", ".join(filter(None, (size_words(group), *prices))), ", ".join(map(runtime_words, group.runtimes))]
    return clean(f"{group.name}: {'; '.join(filter(None, said)) or 'nothing was compared'}")


def brief_words(group: RecipeGroup) -> list[str]:
    """Its size, price and runtimes, for a cell: `dynamic_int8, 142 MB`, `KL 0.027`, `XNNPACK 0.77 of 4`."""
    result = group.result
    size = "" if result is None or result.mb is None else f", {number(result.mb)} MB"
    costs = [f"KL {compared(hop.logits.kl_mean)}" for hop in group.prices[:1] if hop.logits is not None]
    kernels = [f"{kernel_name(hop)} {_brief_figure(hop)}" for hop in group.runtimes]
    return [f"{group.name}{size}", *costs, *kernels]


def _brief_figure(hop: HopResult) -> str:
    return f"{snr_figure(hop)} dB" if hop.lowest_snr is not None else worst_excess(hop.worst)


def price_words(hop: HopResult, short: bool = False) -> str:
    """`costs a mean KL of 2.1e-06 nats, 0 of 333 top tokens changed`.

    short: of a second one beside it.
    """
    logits = hop.logits
    if logits is None:
        return "what it costs could not be compared"
    kl, changed = compared(logits.kl_mean), f"{logits.flips} of {logits.positions}"
    times = f"perplexity times {ratio_text(hop.text.perplexity_ratio)}" if hop.text else ""
    if short and split(hop.to)[0] == FAKEQUANT_BUILTIN:
        return f"with inputs quantised as builtin kernels do KL {kl} and {changed}{', ' if times else ''}{times}"
    answers = f" ({logits.answer_flips} of them answers)" if logits.answer_flips is not None else ""
    said = f"costs a mean KL of {kl} nats, {changed} top tokens changed{answers}"
    return f"{said}, {times} on the text" if times else said


def runtime_words(hop: HopResult) -> str:
    """`XNNPACK computes it to 2.3 of 4`: the excess nearest to its limit; or that it does not, and from where on."""
    base = split(hop.to)[0]
    who = _KERNELS.get(base, base)
    if not hop.taps_compared:
        return f"{who} could not be compared"
    if hop.verdict == "fail":
        where = f" (first at {hop.first_failing_tap})" if hop.first_failing_tap else f" ({hop.reasons[0]})"
        # Whose fault that is, the kernels' or the file's, is for the fault's owner to say.
        return f"{who} {'differs' if base == XNNPACK else 'differ'} from {split(hop.from_)[0]}{where}"
    if hop.lowest_snr is not None:
        other = split(hop.from_)[0]
        return f"{who} within {snr_figure(hop)} dB of {_KERNELS.get(other, other)}"
    return (
        f"{who} to {worst_excess(hop.worst)}" if base != XNNPACK else f"{who} computes it to {worst_excess(hop.worst)}"
    )


def kernel_name(hop: HopResult) -> str:
    """Of the kernels of a hop's second stage: `XNNPACK`; and of the first, where both are compared."""
    base, other = split(hop.to)[0], split(hop.from_)[0]
    against = f" against {_KERNELS.get(other, other)}" if hop.hop.on_kernels else ""
    return _KERNELS.get(base, base) + against


def bar(layer: QuantisedLayer, largest: QuantisedLayer) -> str:
    """How long the bar of a layer's error is, as a share of the largest one's."""
    if layer.error is None or not largest.error:
        return "1" if layer.error is None else "0"
    return f"{min(1.0, layer.error / largest.error):.4f}"


def wrong_layers(record: Record) -> set[tuple[str, str]]:
    """(recipe, layer) of every finding that says that the file holds something else than the recipe should give."""
    owners = {f"{RECIPE} {group.name}": group.name for group in recipe_groups(record)}
    return {(owners[one.owner], one.key) for one in record.findings if one.owner in owners and one.key}


def short_name(hop: HopResult) -> str:
    """A hop's name without its recipe, where that stands above it: `fakequant->tflite-xnnpack`."""
    return f"{split(hop.from_)[0]}->{split(hop.to)[0]}"


def same_words(names: Sequence[str]) -> str:
    """Hops that one sentence is said of, with recipes together: `reauthored->a; fakequant->a (fp16, int8)`."""
    recipes: dict[str, list[str]] = {}
    for name in names:
        reference, _, candidate = name.partition("->")
        base, recipe = split(candidate)
        known = recipes.setdefault(f"{split(reference)[0]}->{base}", [])
        if recipe != FLOAT:
            known.append(recipe)
    if all(len(of) < 2 for of in recipes.values()):
        return "; ".join(names)
    return "; ".join(f"{hop} ({', '.join(of)})" if of else hop for hop, of in recipes.items())
