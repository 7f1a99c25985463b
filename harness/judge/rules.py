"""Why a tap was judged as it was: ordered tolerance rules, applied to its figures.

In: a tap's figures and the rules of a TOML file. Out: a `Judgement` that names the rule and what it found.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import UsageError
from harness.judge.globs import no_such_family, no_such_hop, no_such_tap, only_prices, selects
from harness.judge.limits import blind, looser, useless, whole
from harness.names.codes import TapCode
from harness.names.figures import (
    COUNTS,
    FILE_MB,
    FLOOR,
    LOCAL_FIGURES,
    LOGITS_ONLY,
    LOWER,
    OF_THE_HOP,
    ON_TEXT,
    PERPLEXITY_RATIO,
    UPPER,
)
from harness.names.stages import Hop
from harness.names.taps import LOGITS
from harness.plain import brief, one_line
from harness.record.faults import BrokenFloor
from harness.record.tap_row import TapRow
from harness.system.reading import read_toml

DEFAULT_RULES = Path(__file__).with_name("tolerances.toml")

_SELECTORS = frozenset({"name", "model", "hop", "tap", "family"})
_MAX_POSITIONS = "max_positions"
_TEXT_OPTIONAL = "text_optional"
Place = tuple[str, str, str, int, str]  # model, hop, tap, positions and family of a judgement


@dataclass(frozen=True)
class Rule:
    """Globs that say what it judges, and a limit per figure.

    family: judges only quantised files of these families (a glob), see `harness/names/recipe_families.py`.
    max_positions: judges only inputs on which at most so many positions were compared.
    text_optional: where no text is measured, its limit on what only a text tells does not hold, and fails nothing.
    """

    name: str
    limits: Mapping[str, float]
    model: str = "*"
    hop: str = "*"
    tap: str = "*"
    family: str = ""
    max_positions: float = math.inf
    text_optional: bool = False

    def matches(self, model: str, hop: str, tap: str, positions: float, family: str = "") -> bool:
        patterns = ((self.tap, tap), (self.hop, hop), (self.model, model))
        asked = positions <= self.max_positions and (not self.family or selects(self.family, family))
        return asked and all(selects(pattern, text) for pattern, text in patterns)


@dataclass(frozen=True)
class Judgement:
    """broken: the figures whose limits are broken, or a `TapCode`. why: the same in words and numbers."""

    verdict: Literal["pass", "fail"]
    rule: str
    broken: tuple[str, ...] = ()
    why: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def codes(self) -> str:
        """What is broken, as a row of taps holds it."""
        return ", ".join(self.broken)


def load_rules(path: Path | None = None) -> list[Rule]:
    """The rules of a TOML file, or the shipped defaults. Raises UsageError naming the rule and what is wrong."""
    path = path or DEFAULT_RULES
    content = read_toml(path, "tolerances", "give a TOML file with [[rule]] tables")
    tables = content.get("rule")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"tolerances {path} has no [[rule]]; harness/judge/tolerances.toml shows the defaults")
    return [_rule(path, number, table) for number, table in enumerate(tables, start=1)]


def _rule(path: Path, number: int, table: Mapping[str, object]) -> Rule:
    where = f"tolerances {path}, rule {brief(table.get('name', number))}"
    limits: dict[str, float] = {}
    for key, value in table.items():
        if key in _SELECTORS:
            if not isinstance(value, str):
                raise UsageError(f"{where}: {key} must be text, not {brief(value)}")
        elif key == _TEXT_OPTIONAL:
            if not isinstance(value, bool):
                raise UsageError(f"{where}: {key} must be true or false, not {brief(value)}")
        else:
            limits[key] = _limit(where, key, value, table)
    max_positions = limits.pop(_MAX_POSITIONS, math.inf)
    if not limits:
        raise UsageError(f"{where} has no limit, so it would pass anything; give it one, e.g. excess = 4.0")
    selectors = {key: str(table[key]) for key in ("model", "hop", "tap", "family") if key in table}
    name, optional = str(table.get("name", f"rule {number}")), bool(table.get(_TEXT_OPTIONAL, False))
    rule = Rule(name, limits, max_positions=max_positions, text_optional=optional, **selectors)
    for said in (
        useless(limits, of_a_price=only_prices(rule.hop)),
        no_such_hop(rule.hop),
        no_such_tap(rule.tap),
        no_such_family(rule.family, rule.hop),
        _not_of_the_hop(rule),
    ):
        if said:
            raise UsageError(f"{where}: {said}")
    return rule


def _limit(where: str, key: str, value: object, table: Mapping[str, object]) -> float:
    """A limit of a rule. Raises UsageError for what is none."""
    if key not in UPPER | LOWER and key != _MAX_POSITIONS:
        raise UsageError(f"{where}: unknown metric '{one_line(key, 60)}'; {_hint(key)}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_a_float(value):
        raise UsageError(f"{where}: {key} must be a number, not {brief(value)}")
    if key in LOGITS_ONLY and table.get("tap") != LOGITS:
        raise UsageError(f'{where}: {key} is a figure of the logits alone; put it in a rule with tap = "logits"')
    return float(value)


def _not_of_the_hop(rule: Rule) -> str:
    """Why a limit on what is of a whole hop cannot stand in a rule; empty where it can."""
    asked = " and ".join(sorted(OF_THE_HOP & rule.limits.keys()))
    if asked and rule.max_positions < math.inf:
        return f"{asked} is of no single input, and max_positions says of which inputs; leave one of them out"
    if FILE_MB in rule.limits and not only_prices(rule.hop):
        return (
            f"{FILE_MB} is the size of a recipe's file, and hop {brief(rule.hop)} matches hops that have none; "
            'give hop = "*->fakequant*"'
        )
    return ""


def _hint(key: str) -> str:
    """What an unknown key of a rule may have meant."""
    known = [*sorted(UPPER | LOWER), *sorted(_SELECTORS), _MAX_POSITIONS, _TEXT_OPTIONAL]
    # Letter by letter `excess_position` is nearer to `max_positions` than to `position_excess`.
    turned = [name for name in known if sorted(name.split("_")) == sorted(key.split("_"))]
    near = turned or difflib.get_close_matches(key, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"the metrics are {', '.join(sorted(UPPER | LOWER))}"


def _is_a_float(value: float) -> bool:
    """Whether it is a number, and not a whole one beyond what floats hold."""
    try:
        return not math.isnan(value)
    except OverflowError:
        return False


def check_all_judged(
    rules: list[Rule],
    model: str,
    hops: Iterable[Hop],
    taps: Sequence[str],
    positions: int,
    path: Path | None = None,
) -> None:
    """Raises UsageError for the first tap of the first hop that no rule judges: it could only fail, at any error.

    positions: of the longest input; a rule that judges it there judges every shorter one. path: of the rules' file.
    """
    for hop in (hop.name for hop in hops):
        for tap in taps:
            if _first(rules, model, hop, tap, positions) is None:
                raise UsageError(
                    f"tolerances {path or DEFAULT_RULES}: no rule matches hop {hop}, tap {tap} of {model} on an input "
                    f'of {positions} positions; end the rules with one for tap = "*", without model, hop, '
                    "family and max_positions"
                )


def judge(
    rules: list[Rule],
    model: str,
    hop: str,
    tap: str,
    positions: int,
    figures: Mapping[str, float],
    family: str = "",
) -> Judgement:
    """The verdict of the first rule that matches a tap of which `positions` positions were compared.

    family: of the quantised file that the hop is about, if it is about one.

    A figure that is NaN fails: not-a-number is under no limit. So does a figure that the tap lacks.
    NaN or infinity in the tap's values fails whatever the limits are, unless the rule allows a count of them. So does a
    tap whose values, `scale` at root mean square, are smaller than the only limits on its error.
    """
    rule = _first(rules, model, hop, tap, positions, family)
    if rule is None:
        why = f"no tolerance rule matches {hop} {tap}; end the rules with one for tap = '*'"
        return Judgement("fail", "", (TapCode.NO_RULE,), why)
    limits = {name: limit for name, limit in whole(rule.limits).items() if name not in LOCAL_FIGURES | OF_THE_HOP}
    found = _judged(rule, limits, figures)
    nothing = blind(limits, figures.get("scale", math.inf)) if found.verdict == "pass" else ""
    return replace(found, verdict="fail", broken=(TapCode.LIMITS_NOTHING,), why=nothing) if nothing else found


def judge_hop(
    rules: list[Rule],
    model: str,
    hop: str,
    family: str,
    text: Mapping[str, float] | None,
    positions: int,
    mb: float | None,
    why_no_text: str = "",
) -> Judgement:
    """The verdict on what is of no single input, by the rule that judges the logits of inputs as long as the text.

    text: its figures, `ON_TEXT` and `perplexity_ratio`, at so many positions; None where none was measured: why not.
    mb: of the recipe's file. What a rule limits and is not known fails, but for a text that is optional.
    """
    rule = _first(rules, model, hop, LOGITS, positions if text is not None else math.inf, family)
    if rule is None:
        return Judgement("pass", "")  # `judge` has failed every input for it
    asked = OF_THE_HOP | (ON_TEXT if text is not None else frozenset())
    if text is None and rule.text_optional:
        asked -= {PERPLEXITY_RATIO}
    unknown = {PERPLEXITY_RATIO: why_no_text or "no text was measured on this hop"} if text is None else {}
    unknown |= {FILE_MB: "there is no file of a recipe here"} if mb is None else {}
    figures = {**(text or {}), **({} if mb is None else {FILE_MB: mb})}
    limits = {name: limit for name, limit in rule.limits.items() if name in asked}
    said = {name: _break(name, limit, figures.get(name, math.nan)) for name, limit in limits.items()}
    said = {name: f"{text} on the text" if text and name != FILE_MB else text for name, text in said.items()}
    said |= {
        name: f"{name} is limited to {limits[name]:g} and not known: {why}"
        for name, why in unknown.items()
        if name in limits
    }
    return _judgement(rule, limits, said)


def limits_of(
    rules: list[Rule], model: str, hop: str, tap: str, positions: int, family: str = ""
) -> Mapping[str, float]:
    """What the first rule that matches a tap limits; nothing where none matches."""
    rule = _first(rules, model, hop, tap, positions, family)
    return {} if rule is None else whole(rule.limits)


def judge_local(
    rules: list[Rule],
    model: str,
    hop: str,
    tap: str,
    positions: int,
    figures: Mapping[str, float],
    family: str = "",
) -> Judgement:
    """The verdict on what was introduced at a tap, by the same rule's limits on that."""
    rule = _first(rules, model, hop, tap, positions, family)
    if rule is None:
        return Judgement("pass", "")
    return _judged(rule, {name: limit for name, limit in rule.limits.items() if name in LOCAL_FIGURES}, figures)


def looser_than(rules: list[Rule], shipped: list[Rule], places: Iterable[Place]) -> dict[tuple[str, str], list[str]]:
    """(rule, shipped rule in its place) -> how it is looser, for the rules that judged something there."""
    pairs = {
        (id(a), id(b)): (a, b) for place in set(places) for a in _match(rules, place) for b in _match(shipped, place)
    }
    found: dict[tuple[str, str], list[str]] = {}
    for mine, theirs in pairs.values():
        if said := looser(mine.limits, theirs.limits):
            found.setdefault((mine.name, theirs.name), []).extend(said)
    return found


def _match(rules: list[Rule], place: Place) -> list[Rule]:
    """The rule that judges a place; none where no rule matches."""
    return [rule for rule in rules if rule.matches(*place)][:1]


def _first(rules: list[Rule], *place: Any) -> Rule | None:
    return next(iter(_match(rules, place)), None)


def _judged(rule: Rule, limits: Mapping[str, float], figures: Mapping[str, float]) -> Judgement:
    return _judgement(
        rule, limits, {name: _break(name, limit, figures.get(name, math.nan)) for name, limit in limits.items()}
    )


def _judgement(rule: Rule, limits: Mapping[str, float], said: Mapping[str, str]) -> Judgement:
    """said: how each figure breaks its limit, in words; empty where it does not."""
    broken = {name: text for name, text in said.items() if text}
    verdict: Literal["pass", "fail"] = "fail" if broken else "pass"
    return Judgement(verdict, rule.name, tuple(broken), "; ".join(broken.values()), limits)


def _break(name: str, limit: float, value: float) -> str:
    """How a figure breaks its limit, in words; empty when it does not. Written so that NaN breaks every limit."""
    if math.isnan(value):
        return f"{name} has no value"
    if name in COUNTS and value > limit:
        kind = "NaN" if name.startswith("nan") else "infinite"
        return f"{value:g} {'value is' if value == 1 else 'values are'} {kind} ({name} {value:g} > {limit:g})"
    if name in LOWER:
        return "" if value >= limit else f"{name} {value:.3g} < {limit:g}"
    return "" if value <= limit else f"{name} {value:.3g} > {limit:g}"


def floor_alone(row: TapRow) -> BrokenFloor | None:
    """The noise floor of a row of taps, where its limit is the only one that the tap breaks.

    Then the candidate is within every limit that is on it: the floor is of `hf` against `oracle`.
    """
    if row.broken != FLOOR or math.isnan(row.noise_floor):
        return None
    return BrokenFloor(value=row.noise_floor, limit=row.noise_floor_limit)
