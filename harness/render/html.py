"""The parity report. In: record and taps. Out: `report.html`, one file that needs no network.

The page carries its taps as compact JSON and draws chart and table from it in the browser; nothing
in it is computed from the numbers but where a point stands.
"""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.record import Hop, Record, Stage, write_text
from harness.render import (
    clean,
    compared,
    defect_words,
    fault_words,
    headline,
    is_nothing,
    missing_groups,
    nearest_to_limit,
    number,
    percent,
    rows_of,
    suspicion,
    tap_figure,
    tap_value,
    worst_excess,
    worst_of,
)
from harness.render.limits import FIGURES, limit_of, share

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment

REPORT_FILE = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
VERDICTS = ("pass", "fail", "missing")
# Order of the numbers in a row of the page's data; the script knows them by these names.
NUMBERS = (
    "excess",
    "position_excess",
    "local_excess",
    "total_excess",
    "rel_l2",
    "noise_floor",
    "max_abs_err",
    "mean_abs_err",
    "snr_db",
    "cosine",
)
_TEXTS = ("input", "hop", "tap", "rule", "why", "shape", "dtype", "how")
# The limits of the two figures that have one, and the larger share of them that is used up.
_LIMITS = tuple(f"{name}_limit" for name in FIGURES)
_USED = "limit_used"
_COUNTS = ("worst_position", "nan_count", "inf_count")


@dataclass(frozen=True)
class Node:
    """A stage in the drawing of the pipeline, with the hops that leave it."""

    name: str
    stage: Stage | None
    hops: tuple[tuple[Hop, Node], ...]


def write_report(folder: Path, record: Record, frame: pd.DataFrame) -> Path:
    """Write `report.html` into the run folder and return its path."""
    fault_row = _fault_row(record, frame)
    template = page_environment().get_template("report.html.j2")
    page = template.render(
        record=record,
        headline=headline(record),
        nearest=nearest_to_limit(record),
        suspicion=suspicion(record),
        fault_words=fault_words(record, fault_row),
        chain=chain(record),
        lost_stages=[stage for stage in record.stages if stage.status in ("crashed", "timeout")],
        other_failures=[
            hop for hop in record.hops if hop.verdict == "fail" and hop.taps_compared and _no_tap_fails(hop)
        ],
        lone_stages=_lone_stages(record),
        fault_row=fault_row,
        cases={(case.input, case.hop): case for case in record.cases},
        missing=[(hop, missing_groups(hop)) for hop in record.hops if hop.taps_missing],
        versions=_versions(record),
        command=_command(record),
        run=shlex.quote(str(_final(folder, record))),
        options={name: value for name, value in record.options.items() if name != "command"},
        data=_script_json(tap_data(record, frame)),
        style=page_asset("report.css"),
        script=page_asset("report.js"),
    )
    path = folder / REPORT_FILE
    write_text(path, page)
    return path


def _final(folder: Path, record: Record) -> Path:
    """Where a run folder will stay: a run under way still works in a hidden one, which no command would find."""
    return folder.parent / record.run_id if folder.name.startswith(".") else folder


def _no_tap_fails(hop: Hop) -> bool:
    return hop.first_failing_tap is None


def chain(record: Record) -> list[Node]:
    """The hops as trees that start at the stages no hop leads to."""
    stages = {stage.name: stage for stage in record.stages}
    targets = {hop.to for hop in record.hops}
    roots = dict.fromkeys(hop.from_ for hop in record.hops if hop.from_ not in targets)
    return [_node(name, record, stages, frozenset()) for name in roots]


def _node(name: str, record: Record, stages: dict[str, Stage], above: frozenset[str]) -> Node:
    above = above | {name}
    leaving = [hop for hop in record.hops if hop.from_ == name and hop.to not in above]
    return Node(name, stages.get(name), tuple((hop, _node(hop.to, record, stages, above)) for hop in leaving))


def _lone_stages(record: Record) -> list[Stage]:
    """What belongs beside the chain: the oracle, and whatever broke before it could stand in a hop."""
    placed = {name for hop in record.hops for name in (hop.from_, hop.to)}
    beside = [stage for stage in record.stages if stage.name not in placed]
    return [stage for stage in beside if stage.name == "oracle" or stage.status != "ok"]


def _command(record: Record) -> str:
    """The command that made the run, if it noted one, as a shell takes it."""
    command = record.options.get("command") or ["edge-parity", "run", record.model]
    return command if isinstance(command, str) else shlex.join(str(word) for word in command)


def _versions(record: Record) -> list[str]:
    """Which kinds of module names the first fault has, usual ones first."""
    if record.first_fault is None:
        return []
    return list(dict.fromkeys((*(v for v in ("hf", "reauthored", "tflite")), *record.first_fault.modules)))


def _fault_row(record: Record, frame: pd.DataFrame) -> dict[str, Any] | None:
    fault = record.first_fault
    if fault is None:
        return None
    rows = rows_of(frame, hop=fault.hop, tap=fault.tap)
    mine = [row for row in rows if row["input"] == fault.input] or [row for row in rows if row["verdict"] == "fail"]
    return mine[0] if mine else None


def tap_data(record: Record, frame: pd.DataFrame) -> dict[str, Any]:
    """The taps frame as small JSON: texts by index, numbers cut to what the page shows."""
    order = {tap: i for i, tap in enumerate(_tap_names(frame))}
    texts: dict[str, dict[str, int]] = {column: {} for column in _TEXTS}
    texts["input"] = {item.id: i for i, item in enumerate(record.inputs)}
    texts["hop"] = {hop.name: i for i, hop in enumerate(record.hops)}
    texts["tap"] = order
    rows = []
    for row in frame.sort_values(["hop", "input", "order"], kind="stable").to_dict("records"):
        named = {str(column): value for column, value in row.items()}
        cells: list[Any] = [
            _index(texts[column], "" if is_nothing(named[column]) else named[column]) for column in _TEXTS
        ]
        cells.append(VERDICTS.index(named["verdict"]))
        cells += [0 if is_nothing(named[column]) else int(named[column]) for column in _COUNTS]
        cells += [_compact(tap_value(named, column), column) for column in NUMBERS]
        cells += [_compact(limit_of(named, column), column) for column in FIGURES]
        cells.append(_compact(share(named), _USED))
        rows.append(cells)
    return {
        "columns": [*_TEXTS, "verdict", *_COUNTS, *NUMBERS, *_LIMITS, _USED],
        "texts": {column: [clean(text) for text in index] for column, index in texts.items()},
        "verdicts": VERDICTS,
        "blocks": _blocks(frame),
        "modules": [[clean(name or "") for name in record.taps.get(tap, {}).values()] for tap in order],
        "fault": _fault_index(record, texts),
        "rows": rows,
    }


def _tap_names(frame: pd.DataFrame) -> list[str]:
    taps = frame[["tap", "order"]].drop_duplicates("tap").sort_values("order", kind="stable")["tap"]
    return [str(tap) for tap in taps]


def _blocks(frame: pd.DataFrame) -> list[int]:
    taps = frame[["tap", "order", "block"]].drop_duplicates("tap").sort_values("order", kind="stable")
    return [int(block) for block in taps["block"]]


def _fault_index(record: Record, texts: dict[str, dict[str, int]]) -> dict[str, int | None] | None:
    fault = record.first_fault
    if fault is None:
        return None
    return {
        "hop": texts["hop"].get(fault.hop),
        "tap": texts["tap"].get(fault.tap),
        "input": texts["input"].get(fault.input),
    }


def _index(known: dict[str, int], text: str) -> int:
    return known.setdefault(text, len(known))


def _compact(value: float | str | None, column: str) -> float | str | None:
    if value is None or isinstance(value, str):
        return value
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    short = float(f"{value:.9g}" if column == "cosine" else f"{value:.3g}")
    return int(short) if short == int(short) and abs(short) < 1e6 else short


def _script_json(data: object) -> Any:
    """JSON that may stand inside a script element: no `<`, so no string in it can close the element."""
    from markupsafe import Markup

    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def page_asset(name: str) -> Any:
    """Style and script of our own: they go into the page as they are."""
    from markupsafe import Markup

    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _words(value: object) -> str:
    """An option as a person writes it."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return ", ".join(_words(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


def _tail(name: str, limit: int = 90) -> str:
    """The end of a flatbuffer's tensor name, a path of classes of several hundred characters."""
    if len(name) <= limit:
        return name
    kept = name[-limit:]
    return f".../{kept.split('/', 1)[-1]}"


def page_environment() -> Environment:
    """Templates and filters of all pages. Whatever is put into one is escaped and has no control characters."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["nothing"] = is_nothing
    environment.filters |= {
        "number": number,
        "words": _words,
        "compared": compared,
        "percent": percent,
        "worst_excess": worst_excess,
        "tap_figure": tap_figure,
        "tail": _tail,
        "defect_words": defect_words,
        "worst_of": worst_of,
    }
    return environment
