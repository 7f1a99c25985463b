"""The page of detection rates. In: a `Report`. Out: Markdown, kept as `docs/detection.md`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from harness.bench.result import OTHERS, Report, Result
from harness.bench.summary import Share, by_kind, false_alarms, summary

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
            *((f"detected by {OTHERS[name]}", *_share(share)) for name, share in whole.others.items()),
            ("false alarms, of comparisons of clean models", *_share(alarms)),
            *((f"clean models that {OTHERS[name]} complains of", *_share(share)) for name, share in others.items()),
        ],
    )
    yield "## By kind"
    yield _table(
        ("kind", "faults", "detected", "hop", "tap", "cause first", "named", "below noise", *OTHERS.values()),
        [
            (kind, str(one.faults), *map(str, (one.detected, one.hop, one.tap, one.cause_first, one.cause_named)),
             str(one.below_noise), *map(str, one.others.values()))
            for kind, one in by_kind(report).items()
        ],
    )  # fmt: skip
    yield from _wrong(report)
    yield from _clean(report)
    for kind in by_kind(report):
        yield f"## Faults: {kind}"
        yield _table(
            ("fault", "model", "what", "first fault", "excess", "cause", "audits", "others"),
            [_row(result) for result in report.results if result.kind == kind],
        )


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
        "layers beside its name runs them at full width."
    )
    rows = []
    for model in dict.fromkeys(one.model for one in report.clean):
        runs = [one for one in report.clean if one.model == model]
        complaints = [str(sum(one.others.get(name, False) for one in runs)) for name in OTHERS]
        figures = (sum(one.comparisons for one in runs), sum(len(one.alarms) for one in runs))
        rows.append((model, str(len(runs)), *map(str, figures), *complaints))
    yield _table(("model", "seeds", "comparisons", "false alarms", *(f"{name} complains" for name in OTHERS)), rows)
    alarmed = [alarm for one in report.clean for alarm in one.alarms]
    if alarmed:
        yield "\n".join(f"- {alarm}" for alarm in alarmed)


def _row(result: Result) -> tuple[str, ...]:
    where = f"{result.hop.replace('->', ' → ')} `{result.tap}`" if result.seen else "-"
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
