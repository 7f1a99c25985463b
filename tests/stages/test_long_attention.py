"""Attention over a long step is made a few rows at a time, and is the same."""

from __future__ import annotations

import pytest
import torch

from harness.stages.torch.attention import probabilities, query_rows

pytestmark = pytest.mark.miniature
LENGTH = 1100


@pytest.fixture(scope="module")
def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = (1, 4, LENGTH, 8), (1, 2, LENGTH, 8), (1, 1, LENGTH, LENGTH)
    query, key, mask = (torch.randn(shape, generator=draw) for shape in shapes)
    return query, key, mask


def test_a_short_step_is_made_at_once_and_a_long_one_in_rows_that_cover_it(tensors):
    query = tensors[0]
    assert query_rows(query[:, :, :1024]) == [None]
    rows = query_rows(query)
    assert len(rows) > 1
    assert [i for part in rows if part for i in range(part.start, part.stop)] == list(range(LENGTH))


@pytest.mark.parametrize("how", ["mask", "mask of one row", "causal", "all seen"])
def test_rows_of_probabilities_are_those_of_the_whole(tensors, how):
    query, key, mask = tensors
    given = {
        "mask": {"attn_mask": mask},
        "mask of one row": {"attn_mask": mask[:, :, :1]},
        "causal": {"is_causal": True},
        "all seen": {},
    }[how]
    whole = probabilities(query, key, key, **given, enable_gqa=True)
    for rows in (slice(0, 7), slice(500, 630), slice(1090, LENGTH)):
        part = probabilities(query, key, key, **given, enable_gqa=True, rows=rows)
        assert part.shape == whole[:, :, rows].shape
        assert torch.allclose(part, whole[:, :, rows], rtol=1e-5, atol=1e-7)
