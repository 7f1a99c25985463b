"""The text that perplexity is measured on: how it is cut, what is refused, and what stages and hops come to on it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from harness.compare.text import compare_text
from harness.errors import UsageError
from harness.inputs import text as module
from harness.inputs.text import SHIPPED, read_sample, text_sample, windows_of
from harness.names.stages import Hop
from harness.names.taps import LOGITS
from harness.store.trace import Trace, TraceWriter
from harness.system.reading import SETTINGS

SIZES = {"vocab_size": 256, "prefill": [8, 32], "kv_cache_len": 100, "prefill_logits": True}


class Bytes:
    """A tokenizer with a token for each byte, and one in front where `bos_token_id` says which."""

    def __init__(self, bos: int | None = None) -> None:
        self.bos_token_id = bos

    def encode(self, text: str) -> list[int]:
        return [*([] if self.bos_token_id is None else [self.bos_token_id]), *text.encode()]

    def decode(self, token_ids: list[int]) -> str:
        return bytes(token_ids).decode()


def test_the_text_that_ships_is_long_enough_and_plain() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    assert 4000 < len(text) < 6000
    assert text.isascii()


def test_windows_are_what_prefill_alone_takes_and_hold_each_token_once() -> None:
    found = text_sample(None, Bytes(), **SIZES)
    lengths = [len(window.tokens) for window in found.windows]
    assert lengths[0] == 96  # three prefills of 32 in a cache of 100: a fourth would run over its end
    assert sum(lengths) == module.MOST_TOKENS
    assert all(window.decode_tail == 0 for window in found.windows)
    tokens = [token for window in found.windows for token in window.tokens]
    assert tokens == list(SHIPPED.read_bytes()[: module.MOST_TOKENS])


def test_each_window_begins_as_the_tokenizer_begins_a_text() -> None:
    assert windows_of([1, 5, 6, 7, 8, 9], 1, 4) == [[1, 5, 6, 7], [1, 8, 9]]
    assert windows_of([5, 6, 7, 8, 9], 1, 4) == [[5, 6, 7, 8]]  # a window of one token predicts nothing
    assert windows_of([5, 6], None, 1) == []


def test_files_that_give_logits_on_decode_alone_are_measured_there_and_on_less() -> None:
    found = text_sample(None, Bytes(), **SIZES | {"prefill_logits": False})
    assert sum(len(window.tokens) for window in found.windows) == module.MOST_STEPS
    assert all(window.decode_tail == len(window.tokens) for window in found.windows)


def test_a_large_vocabulary_is_measured_on_fewer_tokens() -> None:
    found = text_sample(None, Bytes(), **SIZES | {"vocab_size": 256_000})
    assert sum(len(window.tokens) for window in found.windows) == 125


def test_without_a_tokenizer_the_text_that_ships_is_left_out_and_a_given_one_refused(tmp_path: Path) -> None:
    assert text_sample(None, None, **SIZES).why_not == "there is no tokenizer with these weights"
    with pytest.raises(UsageError, match="--text needs a tokenizer"):
        text_sample(tmp_path / "any.txt", None, **SIZES)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"caf\xe9 au lait", "it is not UTF-8 text"),
        (b"x" * (SETTINGS + 1), "bytes, and such a file has"),
    ],
    ids=["empty", "blank", "latin", "huge"],
)
def test_a_file_that_is_no_text_is_refused_in_a_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        read_sample(path)
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_sample(path)


def test_a_text_of_one_token_and_one_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("x")
    with pytest.raises(UsageError, match="gives 1 tokens"):
        text_sample(path, Bytes(), **SIZES)
    path.write_text("some text")
    with pytest.raises(UsageError, match="outside the model's vocabulary of 100"):
        text_sample(path, Bytes(), **SIZES | {"vocab_size": 100})


WINDOWS = {"~text-1": [1, 2, 3, 4], "~text-2": [5, 6, 7]}
PRICE = Hop.between("reauthored", "fakequant[fp16]")


def write(folder: Path, stage: str, change: float = 0.0, windows: dict[str, list[int]] = WINDOWS) -> None:
    rng = np.random.default_rng(3)
    for name, tokens in windows.items():
        values = rng.standard_normal((1, len(tokens), 8)).astype(np.float32)
        with TraceWriter(folder / stage / name, len(tokens), LOGITS) as trace:
            trace.put("embed", values)
            trace.put(LOGITS, values + np.float32(change) * np.arange(8, dtype=np.float32))


def nll_of(values: np.ndarray, token: int) -> float:
    return float(np.log(np.exp(values.astype(np.float64)).sum()) - values[token])


def test_perplexity_is_of_each_window_by_itself_and_the_ratio_of_two_stages(tmp_path: Path) -> None:
    write(tmp_path, "reauthored")
    write(tmp_path, "fakequant[fp16]", 0.3)
    found = compare_text(tmp_path, ["reauthored", "fakequant[fp16]"], [PRICE], WINDOWS)
    wanted = {}
    for stage in PRICE.stages:
        parts = [
            nll_of(Trace.open(tmp_path / stage / name).load(LOGITS)[0, i], following)
            for name, tokens in WINDOWS.items()
            for i, following in enumerate(tokens[1:])
        ]
        wanted[stage] = math.exp(np.mean(parts))
    assert {one.stage: one.perplexity for one in found.stages} == pytest.approx(wanted)
    hop = found.hops[PRICE.name]
    assert hop.positions == 5
    assert hop.perplexity_ratio == pytest.approx(wanted["fakequant[fp16]"] / wanted["reauthored"])
    assert hop.kl_max == hop.kl_p99
    assert Trace.open(tmp_path / "reauthored" / "~text-1").taps.keys() == {LOGITS}


def test_a_stage_that_lacks_a_window_or_a_position_has_no_perplexity(tmp_path: Path) -> None:
    write(tmp_path, "reauthored")
    write(tmp_path, "fakequant[fp16]", windows={"~text-1": WINDOWS["~text-1"]})
    with TraceWriter(tmp_path / "hf" / "~text-1", 4) as trace:
        trace.put(LOGITS, np.zeros((1, 1, 8), np.float32), 2)
    found = compare_text(tmp_path, ["hf", "reauthored", "fakequant[fp16]"], [PRICE], WINDOWS)
    assert [one.stage for one in found.stages] == ["reauthored"]
    assert found.hops == {}


def test_nan_in_the_logits_is_no_perplexity_that_passes(tmp_path: Path) -> None:
    write(tmp_path, "reauthored")
    write(tmp_path, "fakequant[fp16]", math.nan)
    found = compare_text(tmp_path, ["reauthored", "fakequant[fp16]"], [PRICE], WINDOWS)
    ratio = found.hops[PRICE.name].perplexity_ratio
    assert ratio is not None
    assert math.isnan(ratio)
