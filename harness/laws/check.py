"""Check every law of one stage on one conversation: a law of bits at once; of the others, what has to be measured is
left among the traces, since what float32 costs there is known when all stages have run.

In: a driver and an input. Out: a `LawCheck` for each law, and traces where two runs are not the same bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, TypeAdapter

from harness.jobs.driver import Driver
from harness.jobs.job import JobInput
from harness.laws.laws import LAWS, Law, NotAskedError, Pair
from harness.laws.ways import Apart, Conversation, Ran, bits_apart
from harness.names.laws import LAWS_SUFFIX, LawName
from harness.names.taps import LOGITS
from harness.store.trace import TraceWriter

_SAID = 200
CHECKS_FILE = "laws.json"
SIDES = ("one", "other")


class LawCheck(BaseModel):
    """What checking a law came to. to-measure: its two runs are traces now."""

    law: LawName
    outcome: Literal["holds", "broken", "to-measure", "not applicable", "not run"]
    why: str = ""
    tap: str = ""
    position: int | None = None


CHECKS = TypeAdapter(list[LawCheck])


def laws_folder(traces: Path) -> Path:
    """traces: of the stage."""
    return traces.with_name(traces.name + LAWS_SUFFIX)


def check_laws(
    driver: Driver,
    item: JobInput,
    vocabulary: int,
    traces: Path,
    inputs: Sequence[JobInput] = (),
    laws: Iterable[Law] = LAWS,
) -> list[LawCheck]:
    """traces: of the stage. inputs: all that it is asked for. What cannot be run is said: it costs that law alone."""
    talk = Conversation(driver, item.tokens, item.decode_tail, vocabulary, inputs)
    folder = laws_folder(traces) / item.id
    checks = [_check(law, talk, folder) for law in laws]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CHECKS_FILE).write_bytes(CHECKS.dump_json(checks))
    return checks


def read_checks(traces: Path, item: str) -> list[LawCheck]:
    """Raises FileNotFoundError where the stage has left none."""
    return CHECKS.validate_json((laws_folder(traces) / item / CHECKS_FILE).read_bytes())


def _check(law: Law, talk: Conversation, folder: Path) -> LawCheck:
    if why := law.needs(talk.driver.can):
        return LawCheck(law=law.name, outcome="not applicable", why=why)
    try:
        found = law.check(talk)
    except NotAskedError as reason:
        return LawCheck(law=law.name, outcome="not applicable", why=str(reason))
    except Exception as error:  # a declaration's own code raises whatever it likes
        said = " ".join(str(error).split())[-_SAID:] or type(error).__name__
        return LawCheck(law=law.name, outcome="not run", why=said)
    apart = bits_apart(found.one, found.other, talk.length) if isinstance(found, Pair) else found
    if apart is None:
        return LawCheck(law=law.name, outcome="holds")
    if isinstance(found, Pair):
        _write(found, folder / law.name, talk.length)
    return _differing(law, apart, to_measure=isinstance(found, Pair))


def _differing(law: Law, apart: Apart, *, to_measure: bool) -> LawCheck:
    outcome: Literal["broken", "to-measure"] = "to-measure" if to_measure else "broken"
    return LawCheck(law=law.name, outcome=outcome, why=apart.words, tap=apart.tap, position=apart.position)


def _write(pair: Pair, folder: Path, length: int) -> None:
    for side, ran in zip(SIDES, pair, strict=True):
        _write_trace(ran, folder / side, length)


def _write_trace(ran: Ran, folder: Path, length: int) -> None:
    with TraceWriter(folder, length) as trace:
        for position in sorted(ran.rows):
            trace.put(LOGITS, ran.rows[position][None, None], position)
        for tap, values in ran.slots.items():
            trace.put(tap, np.ascontiguousarray(values[:, :length]))
