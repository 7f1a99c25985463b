"""What the closer look promises: the same figures as the taps, position by position, and the tokens that flip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.compare.closeup import TOP_TOKENS, chosen_taps, closeup_of, positions_of_interest
from harness.compare.traces import Comparison, compare_traces
from harness.errors import UsageError
from harness.judge.rules import load_rules
from harness.names.coverage import Absence
from harness.names.stages import Hop
from harness.record.details import COLUMNS, Details, read_details, write_details
from harness.record.tap_row import taps_frame
from harness.store.trace import TraceWriter, sample

TAPS = ["embed", "block.0.attn.q", "block.0.out", "final_norm", "logits"]
HOPS = (Hop("hf", "reauthored"),)
LENGTH, VOCAB = 8, 11
FAULTY_POSITION = 5


def traces_of(tmp_path: Path, fault: float) -> tuple[Path, Comparison]:
    draw = np.random.default_rng(0)
    values = {tap: draw.normal(size=(1, LENGTH, VOCAB if tap == "logits" else 6)) for tap in TAPS}

    def write(folder: Path, noise: float, fault: float = 0.0) -> None:
        with TraceWriter(folder / "a", LENGTH) as writer:
            for tap, exact in values.items():
                own = exact * (1 + noise * draw.normal(size=exact.shape))
                if fault and tap in ("final_norm", "logits"):
                    own[0, FAULTY_POSITION, 3] += fault
                writer.put(tap, own if not noise else own.astype(np.float32))

    write(tmp_path / "oracle", 0.0)
    for order in range(3):
        write(sample(tmp_path / "hf", order), 1e-7)
    write(tmp_path / "reauthored", 1e-7, fault)
    stages = {"oracle", "hf", "reauthored"}
    found = compare_traces(tmp_path, stages, ["a"], TAPS, "m", load_rules(), lambda stage, tap: Absence(""), HOPS)
    return tmp_path, found


@pytest.fixture
def compared(tmp_path: Path) -> tuple[Path, Comparison]:
    """Traces of a model whose re-authoring is off at one position of two taps, and flips a token there."""
    return traces_of(tmp_path, 20.0)


def closely(compared: tuple[Path, Comparison], checkpoint: Path = Path("nowhere")) -> Details:
    traces, comparison = compared
    return closeup_of(traces, comparison, taps_frame(comparison.rows), [("a", range(LENGTH))], checkpoint)


def test_positions_have_the_excess_of_their_tap_and_its_worst_place(compared: tuple[Path, Comparison]) -> None:
    rows = {row.tap: row for row in compared[1].rows}
    positions = closely(compared).positions
    assert set(positions["tap"]) >= {"embed", "block.0.out", "final_norm", "logits"}
    for tap, mine in positions.groupby("tap"):
        worst = mine.loc[mine["excess"].idxmax()]
        assert (worst["position"], worst["excess"]) == (rows[tap].worst_position, rows[tap].position_excess)
        assert set(mine["limit"]) == {rows[tap].position_excess_limit}
        assert list(mine["position"]) == list(range(LENGTH))


def test_a_hop_without_an_excess_has_none_at_its_positions(compared: tuple[Path, Comparison]) -> None:
    traces, comparison = compared
    frame = taps_frame(comparison.rows).assign(excess=np.nan, position_excess=np.nan)
    details = closeup_of(traces, comparison, frame, [("a", range(LENGTH))], Path("nowhere"))
    assert details.positions.empty
    assert len(details.logits) == LENGTH


def test_a_flip_is_told_with_both_tokens_and_whether_noise_could_do_it(compared: tuple[Path, Comparison]) -> None:
    details, figures = closely(compared), compared[1].logits["hf->reauthored"]
    flips = details.logits[details.logits["flip"] != ""]
    assert list(flips["position"]) == [FAULTY_POSITION]
    assert list(flips["flip"]) == ["above noise"]
    assert flips["top1_to"].item() == 3 != flips["top1_from"].item()
    assert details.logits["kl"].max() == figures.kl_max
    mine = details.tokens[(details.tokens["position"] == FAULTY_POSITION) & (details.tokens["stage"] == "reauthored")]
    assert list(mine["rank"]) == list(range(TOP_TOKENS))
    assert mine["token"].iloc[0] == 3
    assert mine["probability"].is_monotonic_decreasing
    assert 0.99 < mine["probability"].iloc[0] <= 1


def test_what_flips_is_kept_before_what_does_not(compared: tuple[Path, Comparison]) -> None:
    assert positions_of_interest(compared[1], [("a", range(LENGTH))], most=1) == {"a": [FAULTY_POSITION]}


def test_the_first_failing_tap_is_looked_at_and_a_hop_without_rows_is_not(compared: tuple[Path, Comparison]) -> None:
    frame = taps_frame(compared[1].rows)
    assert "final_norm" in chosen_taps(frame, "hf->reauthored")
    assert chosen_taps(frame, "hf->nothing") == []


def test_a_histogram_counts_every_element_once(compared: tuple[Path, Comparison]) -> None:
    histograms = closely(compared).histograms
    counted = histograms.groupby("tap")["count"].sum()
    assert set(counted) == {LENGTH * 6}
    assert "logits" not in counted
    faulty = histograms[histograms["tap"] == "final_norm"]
    largest = faulty.loc[faulty["at_least"].idxmax()]
    assert largest["count"] == 1
    assert largest["at_least"] <= 20 / 0.9  # what the fault adds, over the root mean square of the reference
    assert largest["at_least"] >= 10


def test_a_tap_in_pieces_has_the_same_histogram(
    compared: tuple[Path, Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = closely(compared).histograms
    monkeypatch.setattr("harness.compare.closeup.PIECE", 12)
    assert closely(compared).histograms.equals(whole)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_nan_and_infinity_stay_what_they_are_and_say_nothing_on_the_terminal(tmp_path: Path, fault: float) -> None:
    found = traces_of(tmp_path, fault)
    details = closely(found)
    bad = details.positions[~np.isfinite(details.positions["excess"])]
    assert set(bad["position"]) == {FAULTY_POSITION}
    flip = details.logits[details.logits["position"] == FAULTY_POSITION]
    assert (flip["flip"].item(), flip["top1_to"].item()) == ("above noise", -2)
    own = details.tokens[(details.tokens["position"] == FAULTY_POSITION) & (details.tokens["stage"] == "reauthored")]
    assert own.empty


def test_details_are_read_as_they_were_written_and_a_damaged_file_is_named(
    tmp_path: Path, compared: tuple[Path, Comparison]
) -> None:
    details = closely(compared)
    folder = tmp_path / "run"
    folder.mkdir()
    assert read_details(folder) is None
    write_details(folder, details)
    again = read_details(folder)
    assert again is not None
    for name in COLUMNS:
        assert getattr(again, name).equals(getattr(details, name))
    (folder / "details" / "logits.parquet").write_text("no parquet")
    with pytest.raises(UsageError, match=r"logits\.parquet"):
        read_details(folder)
