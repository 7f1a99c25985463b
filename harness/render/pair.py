"""Two files compared: in the terminal, and as a page. In: a `PairComparison`. Out: lines, or HTML."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.names.stages import BUILTIN, XNNPACK
from harness.plain import one_line, tail
from harness.record.pair import PairComparison, PairFault, PairOutput, PairSignature, PairStatic
from harness.record.record import write_text
from harness.render.console import STYLES, cells, line, new_table, verdict_cell, wrapped
from harness.render.numbers import compared, number
from harness.render.page import render_page

if TYPE_CHECKING:
    from rich.console import Console

_KERNELS = {XNNPACK: "XNNPACK", BUILTIN: "builtin", "traces": "traces"}


def pair_headline(found: PairComparison) -> str:
    """What came of it, in a sentence."""
    matched = sum(sum(entry.matched.values()) for entry in found.signatures)
    tensors = sum(entry.tensors for entry in found.signatures)
    over = sum(entry.over for entry in found.signatures if entry.floor != "price")
    if found.exit_code == 3:
        return "A file could not be run."
    if found.verdict == "pass":
        beside = _beside(found)
        if any(entry.floor == "price" for entry in found.signatures):
            hold = "A and B hold" if len(found.quantised) > 1 else f"{' and '.join(found.quantised)} holds"
            return f"{hold} narrow numbers: what differs is the price of that and no fault{beside}."
        where = "on these inputs, " if beside else ""
        return (
            f"They agree to float32 accuracy {where}on every output and on all {matched} of {tensors} tensors that "
            f"match{beside}."
        )
    if wrong := [each for each in found.static if each.severity == "error"]:
        more = f", and {len(wrong) - 1} more of that sort" if len(wrong) > 1 else ""
        return f"Numbers of one type on one kind of grid differ, which is not a price: {_where(wrong[0])}{more}."
    failing = [one for entry in found.signatures for one in entry.outputs if one.verdict == "fail"]
    if not over and failing and all(one.stage == XNNPACK for one in failing):
        return "They agree on builtin kernels, and differ on XNNPACK, which ships: one of the two runs otherwise there."
    if over:
        return f"They differ in {over} of {matched} tensors that match."
    if failing and failing[0].problem:
        return f"Output {one_line(failing[0].name)}: {one_line(failing[0].problem)}."
    return found.problems[0][:1].upper() + found.problems[0][1:] + "." if found.problems else "An output differs."


def _beside(found: PairComparison) -> str:
    """What differs in the files though it shows in no number, for the end of a sentence; empty where nothing does."""
    if not found.static:
        return ""
    more = f", and so do {len(found.static) - 1} more places" if len(found.static) > 1 else ""
    return f"; but the files differ where these inputs do not show it: {_where(found.static[0])}{more}"


_WHAT = {"operator": "is of another kind", "constant": "has another constant", "scale": "has another scale"}


def _where(one: PairStatic) -> str:
    what = f"has another option {one.name}" if one.what == "option" else _WHAT[one.what]
    return f"{_operator(one)} {what}"


def _operator(one: PairStatic) -> str:
    signature = f"{one_line(one.signature)} of " if one.signature else ""
    return f"operator {one.b.index} ({one_line(one.b.kind)}) of {signature}B"


def static_lines(found: PairComparison) -> Iterator[tuple[str, str]]:
    """What differs in the files themselves, those at the first fault aside, which tells them: style and sentence."""
    fault = found.first_fault
    left = [
        each
        for each in found.static
        if fault is None or (each.signature, each.b.index) != (fault.signature, fault.b.index)
    ]
    for each in left[:_TAPS]:
        yield STYLES["fail"] if each.severity == "error" else "", f"{each.severity}: {static_sentence(each)}"
    if len(left) > _TAPS:
        yield "", f"and {len(left) - _TAPS} more places where the files differ; --json has all"


def static_sentence(one: PairStatic) -> str:
    return f"{_operator(one)}: {one_line(one.words)}"


def fault_sentence(fault: PairFault) -> str:
    """Where the difference comes in."""
    why = f": {fault.why}" if fault.why else ""
    if fault.b.kind == "tap":
        return f"First at {tail(one_line(fault.b.tensor))} of input {fault.signature}{why}.{_furthest(fault)}"
    where = f"operator {fault.b.index} ({fault.b.kind}) of {f'{fault.signature} of ' if fault.signature else ''}B"
    other = f", which is operator {fault.a.index} ({fault.a.kind}) in A" if fault.a.index != fault.b.index else ""
    return f"First at {where}{other}: what it reads agrees, and what it gives does not{why}.{_furthest(fault)}"


def _furthest(fault: PairFault) -> str:
    """The numbers that are furthest apart, with as many digits as tell them apart; the excess, where it has one."""
    if not fault.position and fault.values == [None, None]:
        return ""  # shapes that differ
    texts = [compared(value) for value in fault.values]
    if texts[0] == texts[1]:
        texts = [f"{value:.8g}" if value is not None else text for value, text in zip(fault.values, texts, strict=True)]
    here = f" at {fault.position}" if fault.position else ""
    excess = "" if fault.excess is None or math.isinf(fault.excess) else f"; excess {compared(fault.excess)} of 4"
    return f" A gives {texts[0]} and B {texts[1]}{here}{excess}"


def signature_sentence(entry: PairSignature) -> str:
    """How its tensors were matched, and what errors are counted in."""
    ways = ", ".join(f"{count} by {way}" for way, count in entry.matched.items())
    past = f" past {', '.join(entry.undefined[:6])}" if entry.undefined else " of each number"
    floors = {
        "float64": "float32's noise, by the operators' float64 definitions",
        "oracle": "float32's noise, by the reference's own runs that a run kept",
        "rounding": f"float32's noise, and 16 roundings{past}",
        "price": "nothing: it is a price",
    }
    return (
        f"{entry.name or 'the file'}: {sum(entry.matched.values())} of {entry.tensors} tensors matched ({ways}) on "
        f"inputs of {entry.inputs}; errors are counted in {floors[entry.floor]}"
    )


def output_cells(one: PairOutput) -> list[str]:
    """kernels, output, verdict, excess, SNR, KL, problem."""
    snr = compared(one.snr_db) if one.snr_db is not None else "equal" if not one.relative and not one.problem else "-"
    kl = "-" if one.kl_mean is None else number(one.kl_mean)
    return [
        _KERNELS[one.stage],
        tail(one_line(one.name)),
        one.verdict,
        "-" if one.excess is None else compared(one.excess),
        snr,
        kl,
        one_line(one.problem),
    ]


_TAPS = 12  # that are told one by one
HEADINGS = ("kernels", "output", "verdict", "excess", "SNR dB", "mean KL", "")


def shown_outputs(entry: PairSignature) -> list[PairOutput]:
    """All but a KV cache that does not fail: its price is told in one line."""
    failing = [one for one in entry.outputs if one.verdict == "fail"]
    if any(one.stage == "traces" for one in entry.outputs):
        return [*failing[:_TAPS], *(one for one in entry.outputs if one.name == "logits" and one not in failing)]
    return [one for one in entry.outputs if one in failing or not one.name.startswith("kv_cache_")]


def cache_words(entry: PairSignature) -> str:
    """The price of the KV cache, where it has one."""
    priced = [one for one in entry.outputs if one.verdict == "price" and one.name.startswith("kv_cache_")]
    lowest = min(priced, key=lambda one: one.snr_db if one.snr_db is not None else 0.0, default=None)
    if lowest is None:
        return ""
    which = f"{lowest.name} the lowest SNR: {compared(lowest.snr_db)} dB"
    return f"{len(priced)} outputs of the KV cache have a price too, {which}"


def print_pair(found: PairComparison, console: Console) -> None:
    """The verdict, the first fault, and each signature with its outputs."""
    verdict, style = verdict_cell(found.verdict)
    line(console, f"{verdict}  {one_line(found.a)}  {one_line(found.b)}", style=style)
    wrapped(console, pair_headline(found), indent=0)
    if found.first_fault is not None:
        wrapped(console, fault_sentence(found.first_fault), indent=2, style=STYLES["fail"])
    for style, said in static_lines(found):
        wrapped(console, said, style=style)
    for problem in found.problems:
        wrapped(console, problem, style=STYLES["fail"])
    for warning in found.warnings:
        wrapped(console, f"not compared: {warning}")
    for entry in found.signatures:
        wrapped(console, signature_sentence(entry))
        if entry.over and entry.floor != "price":
            wrapped(
                console,
                f"worst tensor {tail(one_line(entry.worst_tensor))}: excess {compared(entry.worst)} of 4",
                indent=4,
            )
        table = new_table("", [(heading, heading in HEADINGS[3:6]) for heading in HEADINGS])
        table.title = None
        for one in shown_outputs(entry):
            table.add_row(*cells(*output_cells(one)))
        console.print(table)
        if said := cache_words(entry):
            wrapped(console, said)


def _name(path: str) -> str:
    """Of a file or a folder, for a title."""
    return one_line(Path(path).name or path, 60)


def write_pair(path: Path, found: PairComparison) -> None:
    """The same as a page, one file that needs no network."""
    page = render_page(
        "pair.html.j2",
        found=found,
        headline=pair_headline(found),
        fault=fault_sentence(found.first_fault) if found.first_fault else "",
        names=[_name(each) for each in (found.a, found.b)],
        static=[(each.severity, static_sentence(each)) for each in found.static],
        headings=HEADINGS,
        signatures=[
            {"words": signature_sentence(entry), "rows": [output_cells(one) for one in entry.outputs], "entry": entry}
            for entry in found.signatures
        ],
    )
    try:
        write_text(path, page)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(f"--html {path} cannot be written ({why}); give another file") from None
