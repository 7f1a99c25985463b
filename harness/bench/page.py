"""The page of detection rates. In: a `Report`. Out: Markdown, kept as `docs/detection.md`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.bench.mistake import QUANTISED_KINDS
from harness.bench.others_quantised import AGREE, DECIBEL
from harness.bench.others_quantised import CLOSE as QUANTISED_CLOSE
from harness.bench.result import EVERY_OTHER, OTHERS, QUANTISED_OTHERS, Clean, Report, Result
from harness.bench.summary import Share, Summary, by_kind, false_alarms, summary

COMMAND = "edge-parity bench --out docs/detection.md"
_INTRO = f"""\
A catalogue of faults, each made on purpose in a model that is right, and what Edge Parity says of it. This page \
is generated: `{COMMAND}`, or `make detection`. `--model` and `--faults` run a part of it.

Every fault is made in a miniature of a published model and goes through the real stages, with the local passes, \
the audits, the search for the first fault and the diagnosis of a run. The inputs are one of 6 tokens and one of \
45 that takes two prefills, each with decode steps. A fault of the re-authored model is compared with the \
flatbuffer of the right one, so that the later hops fail as well and the first has to be named. A runtime that \
differs is made by giving one of the two runtimes a broken file. The entries "as it ships" are defects of the \
packages themselves."""
_OTHERS = f"""\
Beside it the same faults through three checks that are in use: the verifier of litert-torch, which compares \
position 3 of the tokens 1 2 3 4 between Hugging Face and the re-authored model, with the tolerances of its \
examples (1e-4 absolute, 1e-5 relative); `allclose` with {1e-3:g} on the logits of the same inputs, between \
Hugging Face and the stages that were broken; and whether the likeliest token agrees at every position. The \
verifier never runs a flatbuffer."""
_QUANTISED = f"""\
A wrong quantised file is read by the fake-quantised model and by the runtime alike, and what a recipe costs is no \
fault: such a fault is placed by the audit of the recipe, at the layer that it names and on the hop of the price, its \
cause is the code of the finding, and its hop counts as wrong where anybody else is charged with a fault as well. A \
wrong runtime is made by giving the kernels a wrong file and the fake-quantised model the right one, or by kernels \
that compute something else. These faults go through other checks: `allclose` with {QUANTISED_CLOSE:g} on the logits \
between the re-authored model and the quantised file; the likeliest token at {AGREE:.0%} of the positions; the SNR \
of each tap between the float32 and the quantised file on the same kernels, at least {DECIBEL:g} dB; and \
ai-edge-quantizer's own `validate()`, SNR of every tensor, at least {DECIBEL:g} dB too. validate() was given tokens \
of the vocabulary: those that it draws itself lie outside, and the runtime refuses them. It is not asked of kernels \
that no file stands for."""
_TERMS = """\
"Seen" is a hop that fails. "Tap" is the first fault's, at the first try; where one fault acts on several taps \
at once, or a graph can be told in two ways, each of them is right. "Cause" is of the faults that there is a \
hypothesis for, and "named" is among the first three. "Below noise" are faults that no hop shows and whose \
effect, computed in float64, is less than what float32 itself costs at every tap: the figure is the largest of \
those ratios. Nobody can see these in numbers, so they are counted apart, and an audit has to see them."""


def detection_page(report: Report) -> str:
    """The whole page."""
    return "\n\n".join(_parts(report)) + "\n"


def _parts(report: Report) -> Iterator[str]:
    whole = summary(report.results)
    models = len({result.model for result in report.results})
    yield "# What Edge Parity finds"
    yield _prose(_INTRO)
    yield _prose(_OTHERS)
    if any(result.kind in QUANTISED_KINDS for result in report.results):
        yield _prose(_QUANTISED)
    if report.environment:
        made_with = ", ".join(f"{name} {version}" for name, version in report.environment.items())
        yield _prose(f"Made with {made_with}.")
    yield f"## {whole.faults} faults in {models} models"
    yield _prose(_TERMS)
    alarms, others = false_alarms(report)
    yield _table(
        ("figure", "share", ""),
        [
            ("detected, by a hop or an audit", *_share(whole.detected)),
            ("right hop, of those seen", *_share(whole.hop)),
            ("right tap", *_share(whole.tap)),
            ("right cause first", *_share(whole.cause_first)),
            ("right cause named", *_share(whole.cause_named)),
            ("right owner", *_share(whole.owner)),
            ("below noise, seen by an audit", *_share(whole.below_noise)),
            *((f"detected by {EVERY_OTHER[name]}", *_share(share)) for name, share in _asked(whole.others)),
            ("false alarms, of comparisons of clean models", *_share(alarms)),
            *(
                (f"clean models that {EVERY_OTHER[name]} complains of", *_share(share))
                for name, share in _asked(others)
            ),
        ],
    )
    yield "## By kind"
    kinds = by_kind(report)
    for quantised, others_of in ((False, OTHERS), (True, QUANTISED_OTHERS)):
        of = {kind: one for kind, one in kinds.items() if (kind in QUANTISED_KINDS) is quantised}
        if of:
            yield _kinds_table(of, others_of)
    yield from _wrong(report)
    yield from _clean(report)
    for kind in by_kind(report):
        yield f"## Faults: {kind}"
        yield _table(
            ("fault", "model", "what", "first fault", "excess", "cause", "audits", "others"),
            [_row(result) for result in report.results if result.kind == kind],
        )


def _asked(others: Mapping[str, Share]) -> list[tuple[str, Share]]:
    """Of the checks that were asked about anything."""
    return [(name, share) for name, share in others.items() if share.of]


def _kinds_table(kinds: Mapping[str, Summary], others: Mapping[str, str]) -> str:
    headings = ("kind", "faults", "detected", "hop", "tap", "cause first", "named", "below noise", *others.values())
    rows = []
    for kind, one in kinds.items():
        shares = (one.detected, one.hop, one.tap, one.cause_first, one.cause_named, one.below_noise)
        rows.append((kind, str(one.faults), *map(str, (*shares, *(one.others[name] for name in others)))))
    return _table(headings, rows)


def _share(share: Share) -> tuple[str, str]:
    return str(share), share.percent


def _wrong(report: Report) -> Iterator[str]:
    yield "## What is missed or wrong"
    lines = [line for result in report.results for line in _shortcomings(result)]
    yield "\n".join(f"- {line}" for line in lines) if lines else "Nothing."


def _shortcomings(result: Result) -> Iterator[str]:
    """What a result lacks, a line each."""
    name = f"`{result.id}` ({result.model})"
    if result.error:
        yield f"{name} does not run: {result.error}"
    elif not result.detected:
        size = "not known" if result.effect is None else f"{result.effect:.2g} of the noise floor"
        yield f"{name} is not detected; its effect in float64: {size}"
    elif result.seen and not result.tap_right:
        yield f"{name} is seen on {result.hop} at `{result.tap}`, expected on {result.expected_hop} at " + " or ".join(
            f"`{tap}`" for tap in result.expected_taps
        )
    if result.accused:
        yield f"{name}: {' and '.join(result.accused)} charged with it as well"
    if not result.sequence_right:
        both = (result.only_in, result.expected_only_in)
        said, expected = (f"in {part} alone" if part else "in all signatures" for part in both)
        yield f"{name} is said to be {said}, expected {expected}"
    if result.seen and not result.owner_right:
        yield f"{name} is charged to {result.owner or 'nobody'}, expected {' or '.join(result.expected_owners)}"
    if result.seen and result.expected_causes and result.cause_rank != 1:
        named = ", ".join(f"`{cause}`" for cause in result.diagnosis) or "nothing"
        yield f"{name}: the diagnosis names {named}, expected " + " or ".join(f"`{c}`" for c in result.expected_causes)


def _clean(report: Report) -> Iterator[str]:
    if not report.clean:
        return
    yield "## Clean models"
    alarms, _ = false_alarms(report)
    taps = sum(one.taps for one in report.clean)
    yield _prose(
        f"The same models unbroken, with the weights and tokens of other seeds: {alarms.of} comparisons of an input on "
        f"a hop, {taps} of a tap, each with all limits. A failing one is a false alarm. A model with a number of "
        "layers beside its name runs them at full width. The models by every recipe whose blocks divide their rows are "
        "counted by recipe; what the audit of the recipe finds in them is a false alarm too."
    )
    for quantised, others_of in ((False, OTHERS), (True, QUANTISED_OTHERS)):
        runs = [one for one in report.clean if bool(one.recipe) is quantised]
        if runs:
            yield _clean_table(runs, others_of, "recipe" if quantised else "model")
    alarmed = [alarm for one in report.clean for alarm in one.alarms]
    if alarmed:
        yield "\n".join(f"- {alarm}" for alarm in alarmed)


def _clean_table(runs: Sequence[Clean], others: Mapping[str, str], by: str) -> str:
    """A row for each model, or for each recipe."""
    rows = []
    for name in dict.fromkeys(getattr(one, by) for one in runs):
        own = [one for one in runs if getattr(one, by) == name]
        complaints = [str(sum(one.others.get(check, False) for one in own)) for check in others]
        figures = (len(own), sum(one.comparisons for one in own), sum(len(one.alarms) for one in own))
        rows.append((name, *map(str, figures), *complaints))
    return _table((by, "models and seeds" if by == "recipe" else "seeds", "comparisons", "false alarms",
                   *(f"{name} complains" for name in others)), rows)  # fmt: skip


def _row(result: Result) -> tuple[str, ...]:
    alone = f", in {result.only_in} alone" if result.only_in else ""
    where = f"{result.hop.replace('->', ' → ')} `{result.tap}`{alone}" if result.seen else "-"
    if result.below_noise:
        where = f"below noise: {result.effect:.2g}"
    elif result.error:
        where = "does not run"
    figure = "-" if result.excess is None else f"{result.excess:.3g}"
    cause = ", ".join(f"`{name}`" for name in result.diagnosis) or "-"
    seen = [name for name, complains in result.others.items() if complains]
    name = result.id.split("/")[1]
    return (
        name,
        result.model,
        result.what,
        where,
        figure,
        cause,
        ", ".join(result.audits) or "-",
        ", ".join(seen) or "-",
    )


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    headings = tuple(headings)
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _prose(text: str) -> str:
    parts = text.split("\n\n")
    return "\n\n".join(textwrap.fill(part, 120, break_long_words=False, break_on_hyphens=False) for part in parts)
