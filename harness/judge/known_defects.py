"""Known upstream defects: what is wrong in the packages we stand on, as data, and which of it a run shows.

In: `known_defects.toml` and a record. Out: which expected failures are there, which are gone or elsewhere, and what
fails as well. Pure but for reading the file. `python -m harness.judge.known_defects` prints
`docs/upstream-defects.md` made of it.

The file stands beside `tolerances.toml`: both say what a verdict may be expected to be, and `models/` declares models.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import UsageError
from harness.names.codes import FindingCode
from harness.record.record import Case, Finding, HopResult, KnownDefect, Record

DEFECTS_FILE = Path(__file__).parent / "known_defects.toml"
DEFAULT_VARIANT = "default"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_KINDS = {"error": "finding", "warning": "warning"}


class FindingPattern(_Strict):
    """Which findings a defect makes: those of a code, and of a field, key, parameter or stage where one is given."""

    code: FindingCode
    field: str = ""
    key: str = ""
    parameter: str = ""
    stage: str = ""

    def __str__(self) -> str:
        about = ", ".join(filter(None, (self.field, self.key, self.parameter, self.stage)))
        return f"{self.code} ({about})" if about else str(self.code)

    def means(self, finding: Finding) -> bool:
        named = ("field", "key", "parameter", "stage")
        pairs = ((getattr(self, name), getattr(finding, name)) for name in named)
        return finding.code == self.code and all(wanted in ("", found) for wanted, found in pairs)


class Place(_Strict):
    """Where a run of one model shows a defect: a hop with its first failing tap, a stage that ends, or a finding.

    model, variant: as the record calls them. Of a finding they may be patterns (`*`). A model that is named in full is
        bound to show it; one that a pattern means may.
    hop, tap: the hop that fails, and its first failing tap.
    taps: the first failing tap of single inputs, where it is another. unaffected: inputs that pass all the same.
    stage: the stage that crashes. says: parts of what its end says. That is another program's text, and has no code.
    finding: the kind of the findings. shows: which findings; there is one of each. severity: of the findings.
    made_by: the stages that make the finding. A run in which none of them ended is not bound to show it.
    measured: what was measured there, in words and numbers.
    """

    model: str
    variant: str = DEFAULT_VARIANT
    hop: str = ""
    tap: str = ""
    taps: dict[str, str] = Field(default_factory=dict)
    unaffected: tuple[str, ...] = ()
    stage: str = ""
    finding: Literal["", "config", "weights", "numeric", "runtime"] = ""
    severity: Literal["error", "warning"] = "error"
    made_by: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    shows: tuple[FindingPattern, ...] = ()
    measured: str

    @model_validator(mode="after")
    def _is_one_place(self) -> Place:
        if sum(bool(kind) for kind in (self.hop, self.stage, self.finding)) != 1:
            raise ValueError(f"a place of {self.model} needs one of hop, stage and finding")
        pairs = ((self.hop, self.tap), (self.stage, self.says), (self.finding, self.shows))
        if any(bool(one) != bool(other) for one, other in pairs):
            raise ValueError(
                f"a place of {self.model} needs a tap with its hop, says with its stage, or shows with its finding"
            )
        if not self.finding and (self.made_by or "*" in self.model + self.variant):
            raise ValueError(f"a place of {self.model}: patterns and made_by belong to a finding")
        return self

    def __str__(self) -> str:
        if self.hop:
            return f"{self.hop}, first at {self.tap}"
        return f"stage {self.stage} crashes" if self.stage else f"{self.finding} {_KINDS[self.severity]}"

    def concerns(self, record: Record) -> bool:
        """Whether it is listed for a run of this model and variant, in which its hop or stage took part."""
        if not (fnmatchcase(record.model, self.model) and fnmatchcase(record.variant, self.variant)):
            return False
        if self.hop:
            return any(hop.name == self.hop for hop in record.hops)
        if not record.laws and any(pattern.code == FindingCode.LAW_BROKEN for pattern in self.shows):
            return False  # a run without laws is not bound to break one
        ended = {stage.name for stage in record.stages if stage.status == "ok"}
        if self.made_by and not ended.intersection(self.made_by):
            return False
        return not self.stage or any(stage.name == self.stage for stage in record.stages)

    def tap_on(self, item: str) -> str | None:
        """The tap that fails first on an input; None for an input that passes."""
        return None if item in self.unaffected else self.taps.get(item, self.tap)


class Defect(_Strict):
    """One known defect. All texts are shown as they are.

    status: `run` where a run shows it at its `places`; `test` where no run can and a test of the harness makes it
        happen; `absent` where the installed versions no longer have it; `unseen` where nothing here shows it.
    why: more about the status.
    versions: distribution -> the version it was measured with.
    command: shows it. remedy_command: shows the remedy passing.
    """

    id: str
    title: str
    status: Literal["run", "test", "absent", "unseen"]
    why: str = ""
    cause: str
    measured: str
    versions: dict[str, str]
    command: str
    remedy: str = ""
    remedy_command: str = ""
    place: tuple[Place, ...] = ()

    @model_validator(mode="after")
    def _adds_up(self) -> Defect:
        if (self.status == "run") != bool(self.place):
            raise ValueError("a defect with status 'run' has places, any other has none")
        if self.status != "run" and not self.why:
            raise ValueError(f"status '{self.status}' needs a why")
        if self.remedy_command and not self.remedy:
            raise ValueError("a remedy_command needs a remedy")
        return self

    def differing_versions(self, environment: dict[str, str]) -> str:
        """How a run's versions differ from those measured with, in words; empty where they do not."""
        found = {name: environment.get(name.replace("-", "_"), "none") for name in self.versions}
        return ", ".join(
            f"measured with {name} {version}, here {found[name]}"
            for name, version in self.versions.items()
            if found[name] != version
        )


class _File(_Strict):
    defect: tuple[Defect, ...]


def load_defects(path: Path = DEFECTS_FILE) -> tuple[Defect, ...]:
    """The known defects. Raises UsageError, one line, for a file that cannot be read or says what it may not."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"known defects {path} cannot be read ({error}); fix the file") from None
    try:
        defects = _File.model_validate(content).defect
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"known defects {path}: {_where(content, first['loc'])}: {first['msg']}") from None
    if twice := _twice(defects):
        raise UsageError(f"known defects {path}: {twice} stands there twice; keep one")
    return defects


def _twice(defects: tuple[Defect, ...]) -> str:
    """What stands in the file twice; empty when nothing does. A hop can be bound to fail in one way only."""
    ids = [defect.id for defect in defects]
    hops = [f"{place.hop} of {place.model} ({place.variant})" for d in defects for place in d.place if place.hop]
    return next((repr(name) for names in (ids, hops) for name in names if names.count(name) > 1), "")


def _where(content: Mapping[str, object], place: tuple[int | str, ...]) -> str:
    """`defect 'falcon-alibi', place 1, hop` rather than `defect.0.place.0.hop`."""
    words: list[str] = []
    for i, part in enumerate(place):
        if isinstance(part, int):
            table: Any = content
            for step in place[: i + 1]:
                table = table[step]
            words[-1] += f" '{table['id']}'" if isinstance(table, dict) and "id" in table else f" {part + 1}"
        else:
            words.append(part)
    return ", ".join(words) or "top level"


@dataclass(frozen=True)
class Expected:
    """A place that concerns a run, with its defect and what became of it."""

    defect: Defect
    place: Place
    state: Literal["seen", "gone", "elsewhere"]
    found: str  # in words


@dataclass(frozen=True)
class Surprise:
    """Something that fails and is not listed. hop: empty where it belongs to no hop."""

    what: str
    hop: str = ""


@dataclass(frozen=True)
class Match:
    """A record against the known defects.

    expected: every place that the run was bound to show. unexpected: what else fails.
    by_hop: what is expected of a hop: its failing tap, or the crash that keeps it from being compared.
    """

    expected: tuple[Expected, ...] = ()
    unexpected: tuple[Surprise, ...] = ()
    by_hop: Mapping[str, Expected] = field(default_factory=dict)

    @property
    def is_exact(self) -> bool:
        """The run shows what is listed for it, and nothing else fails."""
        return bool(self.expected) and not self.unexpected and all(e.state == "seen" for e in self.expected)


def match(record: Record, defects: Iterable[Defect]) -> Match:
    """What a run was bound to show of the known defects, and what else it shows.

    A model that is listed by a pattern is bound to nothing: its place counts where it is seen.
    """
    looked = [_look(defect, place, record) for defect in defects for place in defect.place if place.concerns(record)]
    named = {e.defect.id for e in looked if e.place.model == record.model}
    expected = [e for e in looked if e.place.model == record.model or (e.state == "seen" and e.defect.id not in named)]
    by_hop = {hop.name: e for e in expected for hop in record.hops if _concerns(e, hop)}
    return Match(tuple(expected), tuple(_unexpected(record, expected, by_hop)), by_hop)


def _concerns(expected: Expected, hop: HopResult) -> bool:
    """Whether a hop is the place itself, or could not be compared for want of the stage that crashed as listed."""
    if expected.place.stage and expected.state == "seen":
        return hop.taps_compared == 0 and hop.blocked_by == expected.place.stage
    return bool(expected.place.hop) and hop.name == expected.place.hop


def _look(defect: Defect, place: Place, record: Record) -> Expected:
    if place.hop:
        hop = record.hop(place.hop)
        if hop.first_failing_tap == place.tap:
            return Expected(defect, place, "seen", f"first failing tap {place.tap}")
        if hop.verdict == "pass":
            return Expected(defect, place, "gone", f"{hop.name} passes")
        where = f"first failing tap {hop.first_failing_tap}" if hop.first_failing_tap else "; ".join(hop.reasons)
        return Expected(defect, place, "elsewhere", f"{hop.name} fails otherwise: {where}")
    if place.stage:
        stage = next(stage for stage in record.stages if stage.name == place.stage)
        if stage.status not in _LOST:
            return Expected(defect, place, "gone", f"stage {stage.name} is {stage.status}")
        state: Literal["seen", "elsewhere"] = "seen" if all(s in stage.detail for s in place.says) else "elsewhere"
        return Expected(defect, place, state, f"stage {stage.name} {stage.status}: {stage.detail}")
    made = [f for f in record.findings if (f.kind, f.severity) == (place.finding, place.severity)]
    found = [next((f.what for f in made if pattern.means(f)), "") for pattern in place.shows]
    if all(found):
        return Expected(defect, place, "seen", "; ".join(dict.fromkeys(found)))
    lacking = ", ".join(str(pattern) for pattern, what in zip(place.shows, found, strict=True) if not what)
    return Expected(defect, place, "elsewhere" if any(found) else "gone", f"no {place.finding} finding is {lacking}")


def _unexpected(record: Record, expected: Sequence[Expected], by_hop: Mapping[str, Expected]) -> Iterator[Surprise]:
    stages = {e.place.stage for e in expected if e.place.stage}
    findings = [e.place for e in expected if e.place.finding]
    for stage in record.stages:
        if stage.status in _LOST and stage.name not in stages:
            yield Surprise(f"stage {stage.name} {stage.status}: {stage.detail}")
    for finding in record.findings:
        listed = any(p.finding == finding.kind and any(s.means(finding) for s in p.shows) for p in findings)
        if finding.severity == "error" and not listed:
            yield Surprise(f"{finding.kind} finding: {finding.what}")
    for hop in record.hops:
        if hop.verdict == "fail" and hop.name not in by_hop:
            yield Surprise(f"{hop.name}: {'; '.join(hop.reasons)}", hop.name)
        elif len(hop.reasons) > 1:  # a known failing tap explains no lack of coverage
            yield Surprise(f"{hop.name}: {'; '.join(hop.reasons[1:])}", hop.name)


_LOST = ("crashed", "timeout")


def case_problem(case: Case, expected: Expected) -> str:
    """Why a case of a hop with a known defect is not as listed, in words; empty when it is exactly that."""
    known, place = expected.defect.id, expected.place
    if place.stage:
        return "" if case.verdict == "missing" else f"known defect {known} loses {place.stage}, but {case.message}"
    wanted = place.tap_on(case.input)
    if wanted is None:
        return "" if case.verdict == "pass" else f"known defect {known} leaves this input alone, but {case.message}"
    if case.verdict == "pass":
        return f"known defect {known} no longer shows: {case.hop} on {case.input} passes; {_FIX}"
    if case.first_failing_tap != wanted:
        return f"known defect {known} shows at {wanted}, but {case.message}"
    return ""


_FIX = "if upstream fixed it, take it out of harness/judge/known_defects.toml"


def problems(record: Record, found: Match) -> list[str]:
    """What about a run is not as listed and not said by any of its cases; empty for a run that is right, or exactly
    wrong. Each fails the run as a whole.
    """
    said = []
    for e in found.expected:
        if e.place.hop or e.state == "seen":
            continue
        what = f"no longer shows: {e.found}; {_FIX}" if e.state == "gone" else f"shows otherwise: {e.found}"
        said.append(f"known defect {e.defect.id} {what}")
    told = {case.hop for case in record.cases if case.verdict != "pass"} - found.by_hop.keys()
    return said + [surprise.what for surprise in found.unexpected if surprise.hop not in told]


def on_record(record: Record, found: Match) -> list[KnownDefect]:
    """The match as the record carries it: a line per place, with what a reader needs to understand it."""
    return [
        KnownDefect(
            id=e.defect.id,
            title=e.defect.title,
            state=e.state,
            hop=e.place.hop,
            place=str(e.place),
            measured=e.place.measured,
            found=e.found,
            cause=" ".join(e.defect.cause.split()),
            command=e.defect.command,
            remedy=" ".join(e.defect.remedy.split()),
            remedy_command=e.defect.remedy_command,
            versions_differ=e.defect.differing_versions(record.environment),
        )
        for e in found.expected
    ]
