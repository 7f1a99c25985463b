"""Which runs of signatures take token ids through a language model's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UsageError
from harness.flatbuffer.reader import Operator, Signature, Subgraph, Tensor
from harness.inputs.tokens import TokenInput
from harness.pairs.feeding import chains, token_feeds

VOCABULARY, LENGTH = 50, 16


class File:
    """What is asked of a `FlatbufferModel`: a decode and a prefill of four tokens, with a KV cache of one layer."""

    path = Path("model.tflite")

    def __init__(self, names: tuple[str, ...] = ("prefill_4", "decode"), mask: bool = False) -> None:
        self.graphs = []
        self.pairs: list[tuple[Signature, ...]] = []
        for number, name in enumerate(names):
            size = 4 if name != "decode" else 1
            shapes = {"tokens": (1, size), "input_pos": (size,)}
            shapes |= {f"kv_cache_{part}_0": (1, LENGTH, 1, 8) for part in "kv"}
            shapes |= {"mask": (1, 1, size, LENGTH)} if mask else {}
            kinds = {"tokens": "INT32", "input_pos": "INT32"}
            tensors = [
                Tensor(at, key, shape, kinds.get(key, "FLOAT32"), 0) for at, (key, shape) in enumerate(shapes.items())
            ]
            table = Tensor(len(tensors), "table", (VOCABULARY, 8), "FLOAT32", 1)
            lookup = Operator(0, "EMBEDDING_LOOKUP", (0, table.index), (table.index + 1,))
            tensors += [table, Tensor(table.index + 1, "embed", (1, size, 8), "FLOAT32", 0)]
            self.graphs.append(Subgraph(number, name, tensors, [lookup]))
            self.pairs.append((Signature(name, number, {key: at for at, key in enumerate(shapes)}, {}),))

    def subgraph(self, index: int) -> Subgraph:
        return self.graphs[index]

    def open_shape(self, subgraph: int, tensor: int) -> tuple[int, ...]:
        return self.graphs[subgraph].tensors[tensor].shape


def feeds(file: Any, *tokens: int, tail: int = 1) -> Any:
    return token_feeds(file, file.pairs, TokenInput("a", tokens, decode_tail=tail), "a of lines")


def test_a_text_is_prefilled_padded_and_its_last_token_decoded_on_the_cache_of_the_run_before() -> None:
    first, second, last = feeds(File(mask=True), 1, 2, 3, 4, 5, 6)
    assert [feed.pair[0].name for feed in (first, second, last)] == ["prefill_4", "prefill_4", "decode"]
    assert second.arrays["tokens"].tolist() == [[5, 0, 0, 0]]
    assert last.arrays["input_pos"].tolist() == [5]
    assert not first.arrays["kv_cache_k_0"].any()
    assert (first.carried, second.carried, last.carried) == ((), *[("kv_cache_k_0", "kv_cache_v_0")] * 2)
    assert (np.asarray(second.arrays["mask"])[0, 0, 0] == 0).sum() == 5
    assert last.told == "a of lines, tokens 5 to 5"


def test_signatures_that_no_line_reaches_are_run_on_drawn_inputs(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text('{"tokens": [3]}\n{"id": "b", "tokens": [3, 4]}\n')
    file: Any = File()
    told = [[feed.told for feed in chain] for chain in chains(file, file.pairs, tmp_path / "lines.jsonl", 7)]
    where = tmp_path / "lines.jsonl"
    assert told == [
        [f"line-1 of {where}, tokens 0 to 0"],
        [f"b of {where}, tokens 0 to 0", f"b of {where}, tokens 1 to 1"],
    ]
    (tmp_path / "lines.jsonl").write_text('{"tokens": [3]}\n')
    assert [chain[0].told for chain in chains(file, file.pairs, where, 7)][-1] == "seed 7"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"tokens": [50]}', "outside the model's vocabulary of 50"),
        ('{"text": "a"}', "needs a tokenizer"),
        (f'{{"tokens": {list(range(17))}}}', "do not fit the KV cache of 16 positions"),
    ],
)
def test_lines_that_the_file_cannot_take_are_refused(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "lines.jsonl").write_text(line)
    file: Any = File()
    with pytest.raises(UsageError, match=said):
        chains(file, file.pairs, tmp_path / "lines.jsonl", 0)


def test_token_ids_are_refused_by_what_takes_none_or_cannot_decode() -> None:
    with pytest.raises(UsageError, match=r"give a \.npz"):
        feeds(File(names=("score",)), 1, 2)
    with pytest.raises(UsageError, match="no signature 'decode' in common"):
        feeds(File(names=("prefill_4",)), 1, 2)
