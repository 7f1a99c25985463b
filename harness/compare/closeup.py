"""A closer look at what a run found: single positions, likely tokens, sizes of errors.

In: the traces, and what comparing them gave. Out: `Details`. A few taps and positions only, so that its cost and its
files stay small; which ones follows from the verdicts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.compare.by_position import comparable, each_position
from harness.compare.logits import LogitPositions
from harness.compare.traces import (
    FLOAT32_RUNS,
    Comparison,
    TapReader,
    common_spans,
    noise_floors,
)
from harness.names.stages import HF, ORACLE, Hop
from harness.names.taps import EMBED, FINAL_NORM, LOGITS
from harness.record.details import Details, table

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]
BLOCKS_SHOWN = 4  # block outputs, evenly spaced, and the taps that the verdicts single out
TOP_TOKENS = 5
TOKEN_POSITIONS = 400  # positions of a run whose likely tokens are kept
BINS_PER_DECADE = 4
_SMALLEST, _LARGEST = -12, 3  # decades of a histogram; what lies outside is counted at its ends
_ROWS = 8  # positions of logits in memory at a time
PIECE = 1 << 22  # elements of a tap in memory at a time
TOKENIZER_FILE = "tokenizer.json"


def closeup_of(
    traces: Path, comparison: Comparison, frame: pd.DataFrame, inputs: Sequence[tuple[str, Sequence[int]]], folder: Path
) -> Details:
    """The details of a run.

    frame: its taps. inputs: (id, token ids). folder: of the checkpoint, for its tokenizer.
    """
    stages = dict.fromkeys([ORACLE, *(stage for hop in comparison.hops for stage in hop.stages), *FLOAT32_RUNS])
    readers = [TapReader.of(traces, stages, item) for item, _ in inputs]
    chosen = {hop: chosen_taps(frame, hop.name) for hop in comparison.hops}
    excesses, histograms = _at_taps(readers, chosen, frame)
    logits = [row for hop, each in comparison.logit_positions.items() for row in _logit_rows(hop, each)]
    shown = [stage for stage in stages if stage == HF or stage not in FLOAT32_RUNS]
    tokens = list(_likely_tokens(readers, shown, positions_of_interest(comparison, inputs)))
    ids = {token for _, given in inputs for token in given} | {row[4] for row in tokens}
    ids |= {token for row in logits for token in row[6:8] if token >= 0}
    return Details(
        positions=table("positions", excesses),
        logits=table("logits", logits),
        tokens=table("tokens", tokens),
        words=table("words", list(token_words(folder, ids))),
        histograms=table("histograms", histograms),
    )


def chosen_taps(frame: pd.DataFrame, hop: str) -> list[str]:
    """Taps of a hop that are looked at position by position, in execution order.

    The first one that fails, the worst of each figure, some block outputs, and both ends.
    """
    rows = frame[(frame["hop"] == hop) & (frame["verdict"] != "missing")].sort_values("order", kind="stable")
    if rows.empty:
        return []
    failing = rows[rows["verdict"] == "fail"]["tap"]
    picked = set(failing.iloc[:1])
    for figure in ("excess", "position_excess", "local_excess"):
        known = rows[rows[figure].notna()]
        picked |= set(known.loc[(known[figure] / known[f"{figure}_limit"].fillna(1.0)).nlargest(1).index, "tap"])
    taps = list(dict.fromkeys(rows["tap"]))
    outputs = [tap for tap in taps if tap.startswith("block.") and tap.endswith(".out") and tap.count(".") == 2]
    spaced = np.linspace(0, len(outputs) - 1, min(BLOCKS_SHOWN, len(outputs))).round().astype(int)
    picked |= {outputs[i] for i in spaced} | {EMBED, FINAL_NORM, LOGITS}
    return [tap for tap in taps if tap in picked]


def _at_taps(
    readers: Sequence[TapReader], chosen: dict[Hop, list[str]], frame: pd.DataFrame
) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Rows of the tables `positions` and `histograms`, a tap in memory at a time."""
    # Between two quantised stages there is no excess: float32 does not measure them.
    measured = frame[frame["position_excess"].notna() | (frame["nan_count"] > 0) | (frame["inf_count"] > 0)]
    limits = {
        (row["hop"], row["input"], row["tap"]): row["position_excess_limit"]
        for row in measured[["hop", "input", "tap", "position_excess_limit"]].to_dict("records")
    }
    worst = _worst_inputs(frame)
    excesses: list[tuple[object, ...]] = []
    histograms: list[tuple[object, ...]] = []
    for tap in dict.fromkeys(tap for taps in chosen.values() for tap in taps):
        floors = noise_floors(readers, tap, FLOAT32_RUNS)
        for reader, noise in zip(readers, floors, strict=True):
            for hop, taps in chosen.items():
                if tap not in taps or noise is None or not comparable(reader, hop.stages, tap):
                    continue
                key = (hop.name, reader.item, tap)
                if key in limits:
                    each = each_position(reader, hop.judged_against, hop.candidate, tap, noise)
                    excesses += [(*key, position, value, limits[key]) for position, value in each]
                if tap != LOGITS and worst.get(key[::2]) == reader.item:
                    histograms += [(*key, low, count) for low, count in _histogram(reader, hop, tap)]
            reader.let_go()
    return excesses, histograms


def _worst_inputs(frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(hop, tap) -> the input on which a single position is worst."""
    rows = frame[frame["verdict"] != "missing"]
    rows = rows.assign(severity=rows["position_excess"].fillna(math.inf)).sort_values("severity", kind="stable")
    last = rows.drop_duplicates(["hop", "tap"], keep="last")
    return {(hop, tap): item for hop, tap, item in zip(last["hop"], last["tap"], last["input"], strict=True)}


def _spans(reader: TapReader, hop: Hop, tap: str) -> list[slice]:
    return common_spans(reader.covered(hop.reference, tap), reader.covered(hop.candidate, tap))


def _histogram(reader: TapReader, hop: Hop, tap: str) -> Iterator[tuple[float, int]]:
    """(lower edge, elements) of the errors over the root mean square of the reference; 0 means no error at all."""
    squares, elements = 0.0, 0
    for reference, _ in _pieces(reader, hop, tap):
        with np.errstate(over="ignore"):
            squares, elements = squares + float(np.square(reference).sum()), elements + reference.size
    if not (np.isfinite(squares) and squares > 0):
        return
    size = math.sqrt(squares / elements)
    edges = np.arange(_SMALLEST, _LARGEST + 1e-9, 1 / BINS_PER_DECADE)
    counts, exact = np.zeros(edges.size - 1, np.int64), 0
    for reference, candidate in _pieces(reader, hop, tap):
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(candidate - reference)
        exact += int((error == 0).sum())
        sized = np.log10(error[(error > 0) & np.isfinite(error)] / size)
        counts += np.histogram(np.clip(sized, _SMALLEST, _LARGEST - 1e-9), edges)[0]
    yield 0.0, exact
    for edge, count in zip(edges, counts, strict=False):
        if count:
            yield float(10**edge), int(count)


def _pieces(reader: TapReader, hop: Hop, tap: str) -> Iterator[tuple[Array, Array]]:
    """Both sides in float64, a few positions at a time: probabilities over long inputs do not fit into memory."""
    values = [reader.values(stage, tap) for stage in hop.stages]
    step = max(1, PIECE // max(1, math.prod(values[0].shape[2:])))
    for span in _spans(reader, hop, tap):
        for start in range(span.start, span.stop, step):
            here = slice(start, min(start + step, span.stop))
            reference, candidate = (side[:, here].astype(np.float64) for side in values)
            yield reference, candidate


def _logit_rows(hop: str, each: Sequence[LogitPositions]) -> Iterator[tuple[Any, ...]]:
    for of_input in each:
        stats = of_input.stats
        for i, position in enumerate(of_input.positions.tolist()):
            flip = "above noise" if of_input.above_noise[i] else "within noise" if of_input.flips[i] else ""
            tops = (int(stats.top1_reference[i]), int(stats.top1_candidate[i]))
            figures = (float(stats.kl[i]), float(stats.margin_reference[i]), float(of_input.noise[i]))
            yield (hop, of_input.input, position, *figures, *tops, flip)


def positions_of_interest(
    comparison: Comparison, inputs: Sequence[tuple[str, Sequence[int]]], most: int = TOKEN_POSITIONS
) -> dict[str, list[int]]:
    """Input -> positions whose likely tokens are kept: flips, then the largest KL divergence, then the rest."""
    ranked: dict[tuple[str, int], tuple[int, float]] = {
        (item, position): (0, 0.0) for item, tokens in inputs for position in range(len(tokens))
    }
    for each in comparison.logit_positions.values():
        for of_input in each:
            for i, position in enumerate(of_input.positions.tolist()):
                kl = float(of_input.stats.kl[i])
                rank = (int(of_input.flips[i]) + int(of_input.above_noise[i]), math.inf if math.isnan(kl) else kl)
                ranked[of_input.input, position] = max(rank, ranked[of_input.input, position])
    kept = sorted(ranked, key=lambda place: ranked[place], reverse=True)[:most]
    return {item: sorted(position for name, position in kept if name == item) for item, _ in inputs}


def _likely_tokens(
    readers: Sequence[TapReader], stages: Iterable[str], wanted: dict[str, list[int]]
) -> Iterator[tuple[Any, ...]]:
    """Rows of the table `tokens`. Stages run side by side: a position takes a millisecond, outside of Python."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for reader in readers:
            found = [(stage, *_logits_at(reader, stage, wanted[reader.item])) for stage in stages]
            parts = [(stage, positions, pool.submit(_ranked, logits, positions)) for stage, logits, positions in found]
            for stage, positions, part in parts:
                for position, best in zip(positions, part.result(), strict=True):
                    for rank, entry in enumerate(best):
                        yield reader.item, position, stage, rank, *entry
            reader.let_go()


def _logits_at(reader: TapReader, stage: str, wanted: Sequence[int]) -> tuple[Array | None, list[int]]:
    """The logits of a stage, `[time, vocab]` as its trace holds them, and which of the positions it has."""
    if not reader.has(stage, LOGITS):
        return None, []
    covered = reader.covered(stage, LOGITS)
    return reader.values(stage, LOGITS)[0], [p for p in wanted if any(start <= p < stop for start, stop in covered)]


def _ranked(logits: Array | None, positions: Sequence[int]) -> list[list[tuple[int, float, float]]]:
    """The most likely tokens of each position, a few positions in memory at a time."""
    if logits is None:
        return []
    pieces = [positions[start : start + _ROWS] for start in range(0, len(positions), _ROWS)]
    return [best for some in pieces for best in _best(logits[some])]


def _best(logits: Array) -> Iterator[list[tuple[int, float, float]]]:
    """Per row of `[positions, vocab]`: (token, logit, probability) of the most likely tokens, best first."""
    most = min(TOP_TOKENS, logits.shape[1])
    for row in logits:
        values = row.astype(np.float64)
        if not np.isfinite(values).all():
            yield []
            continue
        top = np.argpartition(values, -most)[-most:]
        top = top[np.lexsort((top, -values[top]))]
        total = np.log(np.exp(values - values.max()).sum()) + values.max()
        yield [(int(token), float(values[token]), float(np.exp(values[token] - total))) for token in top]


def decoded(folder: Path, lines: Sequence[Sequence[int]]) -> list[str]:
    """The text of each line of ids, without special tokens; empty where there is no tokenizer that can be read."""
    tokenizer = _tokenizer(folder)
    return [tokenizer.decode(list(line)) if tokenizer else "" for line in lines]


def token_words(folder: Path, ids: Iterable[int]) -> Iterator[tuple[int, str]]:
    """(token, text) as the checkpoint's tokenizer has them; nothing where there is none that can be read."""
    tokenizer = _tokenizer(folder)
    if tokenizer is None:
        return
    for token in sorted(ids):
        said = tokenizer.decode([token], skip_special_tokens=False)
        # A piece of a letter has no text of its own: the tokenizer's own name for it says more.
        yield token, (tokenizer.id_to_token(token) or "") if not said or "\ufffd" in said else said


def _tokenizer(folder: Path) -> Any:
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception:  # the Rust library raises this class itself
        return None
