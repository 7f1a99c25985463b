"""What a stage is expected to take of memory grows with the KV cache and with the logits of a long input."""

from harness.names.memory import Long, Memory
from harness.names.stages import BUILTIN, HF, ORACLE, XNNPACK, stage_named

SMOLLM2_MB, ROW = 541.0, 2 * 30 * 3 * 64


def smollm2(slots: int, length: int) -> Long:
    return Long.of(slots, ROW, length, 49152)


def test_short_runs_are_estimated_as_they_were_measured():
    assert Long.of(256, ROW, 256, 49152) == Long()
    assert Memory(2, 100, 8, 2).mb(10, Long()) == 120


def test_a_long_cache_counts_for_what_copies_it_and_long_logits_for_what_holds_them():
    long = smollm2(4096, 4090)
    assert 170 < long.cache < 190
    assert 740 < long.logits < 810
    assert stage_named(ORACLE).load(SMOLLM2_MB, "", long)[0] - stage_named(ORACLE).load(SMOLLM2_MB, "")[0] > 1480
    files = {name: stage_named(name).load(SMOLLM2_MB, "", long)[0] for name in (XNNPACK, BUILTIN)}
    assert files[XNNPACK] > 3300  # measured: 3,454 MB
    assert files[BUILTIN] > 4900  # measured: 5,020 MB
    assert stage_named(HF).load(SMOLLM2_MB, "", smollm2(4096, 20))[0] < 1300
    assert stage_named(XNNPACK).quantised("r").load(SMOLLM2_MB, "", long)[0] > 2000
