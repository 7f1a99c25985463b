"""From a fault of a flatbuffer to the operator that causes it: what the record says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from record_factory import make_run

from harness.align.plan import PlanFacts, Written
from harness.jobs.results import Descended
from harness.names.stages import FLATBUFFER, FLOAT
from harness.pipeline.operators import with_operators
from harness.processes.scheduler import Task, TaskResult
from harness.record.record import Fault, FaultyOperator, Record

HOP = "reauthored->tflite-builtin"
FOUND = {
    "whose": "converter", "op": "RESHAPE", "index": 4, "subgraph": 3, "composites": ["odml.attention"], "tensor": "k",
    "why": "it should transpose", "error": 1.0, "after": 1e-6,
}  # fmt: skip
TAP = "block.0.attn.probs"
PLANS = {FLOAT: PlanFacts({name: {TAP: Written(f"{name} probs", "SOFTMAX")} for name in ("prefill_32", "decode")})}


def record_with(owner: str) -> Record:
    record, _ = make_run("fail")
    fault = Fault(hop=HOP, tap="block.0.attn.probs", block=0, modules={}, owner=owner, evidence=["one alone"])
    return record.model_copy(update={"faults": [fault]})


def found(operator: dict[str, Any]) -> Descended:
    return Descended(stage="tflite-builtin", faults={"block.0.attn.probs": FaultyOperator(**operator)})


def described(owner: str, **result: Any) -> Record:
    task = Task("tflite-builtin.operator", "", {})
    ended = TaskResult(**{"name": task.name, "status": "ok", "value": found(FOUND), **result})
    return with_operators(record_with(owner), {HOP: task}, {task.name: ended}, PLANS)


def test_an_operator_tells_converter_and_kernels_apart() -> None:
    fault = described("converter or kernels of tflite-builtin").first_fault
    assert fault is not None
    assert fault.owner == "converter"
    assert fault.op == "RESHAPE"
    assert fault.evidence[-1] == "RESHAPE 4 of odml.attention: it should transpose"
    kernel = found({**FOUND, "whose": "kernel"})
    other = described("converter", value=kernel).first_fault
    assert other is not None
    assert other.owner == "kernels of tflite-builtin"


def test_a_tap_is_named_in_the_signature_in_which_its_operator_was_found() -> None:
    fault = described("converter", value=found({**FOUND, "signature": "decode"})).first_fault
    assert fault is not None
    assert (fault.signature, fault.modules[FLATBUFFER], fault.op) == ("decode", "decode probs", "RESHAPE")


def test_an_operator_does_not_change_what_an_audit_proved() -> None:
    fault = described("weights").first_fault
    assert fault is not None
    assert (fault.owner, fault.evidence) == ("weights", ["one alone"])
    assert fault.operator is not None


def test_a_descent_that_does_not_end_costs_no_verdict() -> None:
    record = described("converter", status="timeout", value=None, detail="ended after its time limit")
    assert record.first_fault is not None
    assert record.first_fault.operator is None
    assert record.findings[-1].severity == "warning"
    assert "time limit" in record.findings[-1].what


@pytest.mark.sweep
def test_a_run_names_the_reshape_that_should_be_a_transpose(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "harness.commands.main",
        "run",
        "gemma1",
        "--miniature",
        "--out",
        str(tmp_path),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 1, done.stderr
    fault = json.loads(done.stdout)["first_fault"]
    assert (fault["hop"], fault["tap"], fault["owner"]) == (HOP, "block.0.attn.probs", "converter")
    assert fault["operator"]["op"] == "RESHAPE"
    assert "transpose" in fault["operator"]["why"]
    assert fault["operator"]["after"] < 1e-4


@pytest.mark.sweep
def test_a_run_blames_the_reference_kernel_for_int4_in_blocks(tmp_path: Path) -> None:
    stages = "reauthored,tflite-xnnpack,tflite-builtin,tflite-reference"
    command = [sys.executable, "-m", "harness.commands.main", "run", "tiny_llama", "--miniature", "--stages", stages]
    command += ["--quantize", "dynamic_int4_block32", "--out", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 1, done.stderr
    fault = json.loads(done.stdout)["first_fault"]
    assert fault["owner"] == "kernels of tflite-reference[dynamic_int4_block32]"
    assert (fault["op"], fault["operator"]["whose"]) == ("FULLY_CONNECTED", "kernel")
    assert "times what rounding allows" in " ".join(fault["evidence"])
