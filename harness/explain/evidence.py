"""What a fault left behind: the candidate's values at a tap, and what they should have been.

In: traces of a run, while they are there, and the reference `Decoder`. Out: `Evidence`, which predicts the tap for any
change of the reference.

The error is the local one: expected is what the reference makes of the candidate's own taps before the fault, so that
an error upstream is not charged to it. The noise is that of `hf`'s three orders of summation, taken in the same way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from harness.compare.metrics import position_stats
from harness.compare.noise import NoiseFloor, excess
from harness.compare.traces import FLOAT32_RUNS
from harness.explain.decoder import NORM_POINTS, TOKENS, WHOLE, Decoder, NotCoveredError, Walk
from harness.explain.functions import Array
from harness.inputs.tokens import schedule_of
from harness.jobs.job import JobInput
from harness.jobs.prepared import Prepared
from harness.names.stages import ORACLE, Hop
from harness.names.taps import EMBED, LOGITS, block_tap, split_tap
from harness.store.trace import Trace

POSITIONS = 256  # of an input are looked at, or more where the worst one lies further on
# Up to here alone: all positions up to the worst one are computed in float64, with their probabilities.
_LAST_POSITION = 1024
_LOGIT_NUMBERS = 500_000  # of logits, whose positions are thinned out to about so many
FAITHFUL_EXCESS = 3.0  # a faithful step adds an excess of 1 to 3
# Share of the error that a hypothesis must explain: less where what it leaves is noise.
CLAIMED, CLAIMED_TO_NOISE = 0.9, 0.5
_COVERED = 1e-6  # relative error of the reference against the oracle: float32's own is up to 1e-5


class KnownTaps(Mapping[str, Array]):
    """Taps of a trace in float64 without the batch, at some positions, read when they are asked for.

    only: the taps that count as known. A tap that its stage did not compute at every position is not.
    """

    def __init__(self, trace: Trace, tokens: Array, keep: Array, only: frozenset[str]) -> None:
        self._trace = trace
        self._keep = keep
        self._names = [tap for tap in trace.taps if tap in only and covers(trace, tap, keep)]
        self._read: dict[str, Array] = {TOKENS: tokens[keep]}

    def __getitem__(self, tap: str) -> Array:
        if tap not in self._read:
            if tap not in self._names:
                raise KeyError(tap)
            values = self._trace.load(tap)[0, self._keep].astype(np.float64)
            if tap.endswith("attn.probs"):
                values = values[..., : len(self._keep)]
            self._read[tap] = values
        return self._read[tap]

    def __contains__(self, tap: object) -> bool:
        return tap in self._read or tap in self._names

    def __iter__(self) -> Iterator[str]:
        return iter([TOKENS, *self._names])

    def __len__(self) -> int:
        return 1 + len(self._names)

    def touched(self) -> dict[str, Array]:
        """What was asked for so far."""
        return dict(self._read)


def covered(trace: Trace, tap: str) -> Array:
    """The positions that a stage computed."""
    return trace.positions(tap)


def covers(trace: Trace, tap: str, positions: Array) -> bool:
    return bool(np.isin(positions, covered(trace, tap)).all())


@dataclass(frozen=True)
class Evidence:
    """A fault at one tap, on one input.

    known: what the candidate had before the tap. observed: what it made of that, `[positions, ...]` at `rows` of the
    known positions. expected: what the reference makes of it. floor: what float32 costs in between.
    computed: the taps between the known ones and the fault, itself among them. written: how many positions the
    KV cache held when each was computed, `[time]`; padded: up to where padding had been written after them. cache:
    how many it has room for. read: the known taps that the reference needs for it. positions: of `rows` in the input.
    worst: the position that shows the fault most. accumulated: as `floor.floor`, of all that comes before the tap.
    same_weights: whether the candidate's weights of the tap's own module are known to be the checkpoint's.
    """

    hop: str
    tap: str
    input: str
    decoder: Decoder
    known: KnownTaps
    rows: Array
    expected: Array
    observed: Array
    floor: NoiseFloor
    computed: tuple[str, ...]
    written: Array
    padded: Array
    cache: int
    read: tuple[str, ...]
    positions: Array
    worst: int
    accumulated: Array
    same_weights: bool = False

    @property
    def block(self) -> int:
        """Of the tap; -1 outside the blocks."""
        block = split_tap(self.tap)[0]
        return WHOLE if block is None else block

    @property
    def point(self) -> str:
        return split_tap(self.tap)[1]

    @cached_property
    def points(self) -> frozenset[str]:
        """What is computed in the fault's own block, or outside the blocks."""
        return frozenset(
            point for tap in self.computed for block, point in [split_tap(tap)] if block in (None, self.block)
        )

    @cached_property
    def whole(self) -> bool:
        """Every number is finite."""
        return bool(np.isfinite(self.observed).all())

    @cached_property
    def decoded(self) -> Array:
        """Whether decode computed each known position, `[time]`: it alone writes one position after the other."""
        each = np.arange(len(self.written)) + 1
        before = np.concatenate([[0], self.written[:-1]])
        return np.asarray((self.written == each) & (before == each - 1))

    @property
    def candidate(self) -> str:
        return Hop.parse(self.hop).candidate

    def module(self, role: str) -> str:
        """The Hugging Face module that a role belongs to."""
        return self.decoder.modules.get(role, role).format(self.block)

    def loss(self, predicted: Array) -> float:
        """What is left of the error, for fitting: the root mean square over positions, in units of the noise."""
        return float(np.sqrt(np.square(self.errors(predicted)).mean()))

    @cached_property
    def useful(self) -> float:
        """No hypothesis whose `loss` is larger can be claimed."""
        before, floor = self.loss(self.expected), self.floor.floor
        # If all that is left is at one position.
        to_noise = FAITHFUL_EXCESS * len(floor) * float(floor.mean() / floor.min())
        return max(math.sqrt(1 - CLAIMED) * before, min(math.sqrt(1 - CLAIMED_TO_NOISE) * before, to_noise))

    def norm_slots(self) -> list[str]:
        """Norms that act between the known taps and the fault."""
        return [
            slot
            for slot, point in NORM_POINTS.items()
            if point in self.points and self.decoder.norm(slot, self.block) is not None
        ]

    def predict(self, decoder: Decoder) -> Array:
        """The tap as another decoder makes it of what is known, at `rows`. Raises NotCoveredError."""
        made = Walk(decoder, self.known).compute(self.tap)
        return made if len(self.rows) == len(made) else made[self.rows]

    def errors(self, predicted: Array) -> Array:
        """norm(observed - predicted) over the noise, per position. Equal infinities and NaN are not an error."""
        norms = np.where(self.floor.norms > 0, self.floor.norms, 1.0)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(np.sqrt(_squared(self.observed, predicted)) / norms / self.floor.floor)

    def excess(self, predicted: Array) -> float:
        """Of what is observed over what is predicted, in units of the noise."""
        return excess(_squared(self.observed, predicted), self.floor).whole


def _squared(observed: Array, predicted: Array) -> Array:
    """norm(observed - predicted)^2 of each position; what is the same counts as equal, even if it is not a number."""
    made = np.empty(len(observed))
    with np.errstate(invalid="ignore", over="ignore"):
        for i, (one, other) in enumerate(zip(observed, predicted, strict=True)):  # a position stays in a core's cache
            gap = np.subtract(one, other).reshape(-1)
            made[i] = np.square(gap, out=gap).sum()
            if not np.isfinite(made[i]):
                same = (one == other) | (np.isnan(one) & np.isnan(other))
                made[i] = np.square(np.where(same, 0.0, one - other)).sum()
    return made


def gather(
    traces: Path,
    hop: str,
    tap: str,
    item: JobInput,
    decoder: Decoder,
    prepared: Prepared,
    worst: int = 0,
    same_weights: bool = False,
) -> Evidence:
    """The evidence of a fault, from a run's traces.

    worst, same_weights: as `Evidence` has them.
    Raises NotCoveredError where the reference does not compute what the oracle computed at this tap.
    """
    taps, tokens = prepared.taps, item.tokens
    candidate = Trace.open(traces / Hop.parse(hop).candidate / item.id)
    before = frozenset(taps[: taps.index(tap)])
    keep, rows = _positions(candidate, tap, len(tokens), worst)
    ids = np.asarray(tokens)

    def known(trace: Trace) -> KnownTaps:
        return KnownTaps(trace, ids, keep, before)

    oracle = Trace.open(traces / ORACLE / item.id)
    _check(known(oracle), oracle, tap, keep, decoder)
    own = known(candidate)
    walk = Walk(decoder, own)
    expected = _computed(walk, own, oracle, tap)[rows]
    read = tuple(known_tap for known_tap in own.touched() if known_tap != TOKENS)
    observed = _values(candidate, tap, keep)[rows]
    if expected.shape != observed.shape:
        raise NotCoveredError(f"{tap} has shape {observed.shape[1:]} and not {expected.shape[1:]}")
    runs = [Trace.open(traces / run / item.id) for run in FLOAT32_RUNS if (traces / run / item.id).is_dir()]
    noise = [(Walk(decoder, known(run)).compute(tap)[rows], _values(run, tap, keep)[rows]) for run in runs]
    written, padded = _written(item, prepared)
    return Evidence(
        hop=hop,
        tap=tap,
        input=item.id,
        decoder=decoder,
        known=own,
        rows=rows,
        expected=expected,
        observed=observed,
        floor=_floor(noise),
        computed=tuple(walk.made),
        written=written[keep],
        padded=padded[keep],
        cache=prepared.kv_cache_len,
        read=read,
        positions=keep[rows],
        worst=worst,
        accumulated=_accumulated(oracle, runs, tap, keep[rows]),
        same_weights=same_weights,
    )


def _computed(walk: Walk, known: KnownTaps, oracle: Trace, tap: str) -> Array:
    """What the reference makes of what the candidate had. Raises NotCoveredError where that has other sizes."""
    try:
        made = walk.compute(tap)
    except ValueError:  # of arrays that do not fit together
        _refuse_other_sizes(known, oracle)
        raise
    _refuse_other_sizes(known, oracle)
    return made


def _floor(noise: Sequence[tuple[Array, Array]]) -> NoiseFloor:
    """What float32 costs in between, of (made by the reference, given by the run) for each float32 run."""
    floor = NoiseFloor.of(*(position_stats(made[None], given[None]) for made, given in noise))
    return NoiseFloor(floor.relative, floor.norms, float(np.median(floor.relative)))


def _refuse_other_sizes(known: KnownTaps, oracle: Trace) -> None:
    """Raises NotCoveredError where the candidate's own values have other sizes than the published model's."""
    for tap, values in known.touched().items():
        if tap not in oracle or tap.endswith("attn.probs"):
            continue
        published = oracle.taps[tap].shape[2:]
        if values.shape[1:] != published:
            raise NotCoveredError(f"{tap}, of which it is made, has shape {values.shape[1:]} and not {published}")


def _accumulated(oracle: Trace, runs: list[Trace], tap: str, positions: Array) -> Array:
    reference = _values(oracle, tap, positions)
    return NoiseFloor.of(*(position_stats(reference[None], _values(run, tap, positions)[None]) for run in runs)).floor


def _written(item: JobInput, prepared: Prepared) -> tuple[Array, Array]:
    """(after which position the KV cache held nothing of the input when each was computed, after which nothing)"""
    steps = schedule_of(item, prepared)
    ends = np.maximum.accumulate([step.start + step.size for step in steps])
    sizes = [step.valid for step in steps]
    return np.repeat([step.start + step.valid for step in steps], sizes), np.repeat(ends, sizes)


def _positions(trace: Trace, tap: str, length: int, worst: int) -> tuple[Array, Array]:
    """(positions of the input that are looked at, which of those the fault's tap has)."""
    if worst >= _LAST_POSITION:
        raise NotCoveredError(
            f"it shows at position {worst:,}, and no more than {_LAST_POSITION:,} positions are computed again"
        )
    count = min(length, max(POSITIONS, worst + 1))
    there = covered(trace, tap)
    there = there[there < count]
    if tap != LOGITS:
        return np.arange(count), there
    most = max(8, _LOGIT_NUMBERS // trace.taps[tap].shape[-1])
    if len(there) > most:
        there = np.union1d(there[np.linspace(0, len(there) - 1, most).astype(int)], there[there == worst])
    return there, np.arange(len(there))


def _values(trace: Trace, tap: str, keep: Array) -> Array:
    values = trace.load(tap)[0, keep].astype(np.float64)
    return np.asarray(values[..., : len(keep)] if tap.endswith("attn.probs") else values)


def _check(known: KnownTaps, oracle: Trace, tap: str, keep: Array, decoder: Decoder) -> None:
    made, given = Walk(decoder, known).compute(tap), _values(oracle, tap, keep)
    held = np.isin(keep, covered(oracle, tap))
    if made.shape == given.shape:
        made, given = made[held], given[held]
    if made.shape != given.shape:
        raise NotCoveredError(f"the published model has another shape at {tap} than is known here")
    off = float(np.linalg.norm(made - given) / (np.linalg.norm(given) or 1.0))
    if not off <= _COVERED:
        raise NotCoveredError(f"the published model computes {tap} in a way that is not known here (off by {off:.2g})")


def save(evidence: Evidence, folder: Path, name: str) -> None:
    """Write `<name>.npz` and `<name>.json`: what was known, expected and observed, and the facts of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    entering = _entering(evidence)
    if entering is not None:
        evidence.known[entering]
    arrays = {f"known/{tap}": values for tap, values in evidence.known.touched().items()}
    arrays |= {"expected": evidence.expected, "observed": evidence.observed, "positions": evidence.positions}
    arrays |= {"noise": evidence.floor.floor, "norms": evidence.floor.norms, "accumulated": evidence.accumulated}
    packed = {key: _narrow(values) for key, values in arrays.items()}
    np.savez_compressed(folder / f"{name}.npz", allow_pickle=False, **packed)
    layer = asdict(evidence.decoder.layer(evidence.block)) if evidence.block >= 0 else {}
    about: dict[str, object] = {
        "hop": evidence.hop,
        "tap": evidence.tap,
        "input": evidence.input,
        "computed": list(evidence.computed),
        "read": list(evidence.read),
        "entering": entering,
        "worst": evidence.worst,
        "layer": layer,
    }
    (folder / f"{name}.json").write_text(json.dumps(about, indent=1))


def _narrow(values: Array) -> Array:
    """As float32 where that loses nothing: it is compressed in a third of the time, to less."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return narrow if values.dtype == np.float64 and np.array_equal(narrow, values, equal_nan=True) else values


def _entering(evidence: Evidence) -> str | None:
    """The tap that the fault's block reads, where the candidate shows it."""
    if evidence.block < 0:
        return None
    tap = EMBED if evidence.block == 0 else block_tap(evidence.block - 1, "out")
    return tap if tap in evidence.known else None
