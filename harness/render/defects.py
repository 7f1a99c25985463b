"""The page of known upstream defects. In: the defects. Out: Markdown, kept as `docs/upstream-defects.md`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from harness.judge.known_defects import Defect, Place, load_defects

_STATUS = {
    "run": "`edge-parity run` shows it",
    "test": "a test of Edge Parity shows it, a run cannot",
    "absent": "not in the installed versions",
    "unseen": "not reproduced by this version of Edge Parity",
}
_INTRO = """\
Defects of the packages that Edge Parity stands on, as they were measured. This page is generated from
`harness/judge/known_defects.toml` with `python -m harness.render.defects > docs/upstream-defects.md`.

The report of a run that shows one names the defect, its cause and the remedy. Such a run fails, unless the defect is
listed as a warning. The gate expects exactly what is listed: a hop that passes, that fails first at another tap or
together with another hop makes it red, and so does a warning that is gone, also with other versions than those
listed."""


def defects_page(defects: Sequence[Defect]) -> str:
    """The whole page. Lines of prose have at most 120 characters."""
    table = ["| defect | models | status |", "|---|---|---|", *(_summary(defect) for defect in defects)]
    parts = ["# Known upstream defects", _INTRO, "\n".join(table), *("\n\n".join(_section(d)) for d in defects)]
    return "\n\n".join(parts) + "\n"


def _summary(defect: Defect) -> str:
    models = ", ".join(dict.fromkeys(_named(place.model) for place in defect.place)) or "-"
    return f"| [{defect.id}](#{defect.id}) | {models} | {_STATUS[defect.status]} |"


def _section(defect: Defect) -> Iterator[str]:
    yield f"## {defect.id}"
    yield _prose(f"{defect.title}. {defect.cause}")
    yield _prose(f"Status: {_STATUS[defect.status]}.{f' {defect.why}' if defect.why else ''}")
    yield _prose(f"Measured: {defect.measured} Versions: {_versions(defect)}.")
    if defect.place:
        yield "\n".join(["| model | variant | shows at | figure |", "|---|---|---|---|", *_places(defect.place)])
    yield _shell(defect.command)
    if defect.remedy:
        yield _prose(f"Remedy: {defect.remedy}")
    if defect.remedy_command:
        yield _shell(defect.remedy_command)


def _places(places: Iterable[Place]) -> Iterator[str]:
    for place in places:
        where = str(place) if place.hop else f"{place}: {'; '.join(place.says or map(str, place.shows))}"
        yield f"| {_named(place.model)} | {_named(place.variant)} | {where} | {place.measured} |"


def _named(pattern: str) -> str:
    wide = pattern.startswith("*") and pattern.endswith("*")
    return " with ".join(filter(None, ["any", pattern.strip("*")])) if wide else pattern


def _versions(defect: Defect) -> str:
    return ", ".join(f"{name} {version}" for name, version in defect.versions.items())


def _prose(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def _shell(command: str) -> str:
    return f"```console\n$ {command}\n```"


if __name__ == "__main__":
    print(defects_page(load_defects()), end="")
