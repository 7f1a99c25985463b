"""Quantised files of a miniature, as the bench makes and breaks them."""

from __future__ import annotations

import functools

from harness.bench.narrow_weight import QuantisedFile
from harness.bench.quantised import QuantisedBench
from harness.bench.workbench import Bench, bench
from harness.names.recipes import Rules

MODEL = "tiny_llama"


def model() -> Bench:
    return bench(MODEL)


@functools.cache
def stages_of(mode: str) -> QuantisedBench:
    return QuantisedBench(model(), mode)


def rules_of(mode: str) -> Rules:
    """The rules of a mode of litert-torch."""
    return stages_of(mode).rules


def quantised(mode: str) -> QuantisedFile:
    """The miniature's file in a mode of litert-torch."""
    return stages_of(mode).sound_file
