"""`run --speed` on SmolLM2's float file against a plain loop over LiteRT's interpreter, as a user would write it.

    python benchmarks/speed.py [--rounds 3] [--threads N]

Per round both run the same prompt, as long as the largest prefill signature takes, and 16 decodes after it, each in a
process of its own, one after the other. Prints prefill and decode tokens per second of both and their ratio, and at the
end the medians of the ratios. The file is converted by the first run, which is not counted. It wants a quiet machine:
what else the machine did stands beside each round.

Promise: every median ratio lies between 0.9 and 1.25. (Ours come out a tenth faster than the plain loop; why is not
known.)
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _smollm2 import ROOT, make_run

from harness.record.record import read_record
from harness.record.speed import StageSpeed
from harness.speed.machine import usable_cores

REPEATS, DECODED = 20, 16


def plain_loop(flatbuffer: str, prompt: int, threads: int) -> tuple[float, float]:
    """Tokens per second of prefill and decode, medians; what a user would write."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(flatbuffer, num_threads=threads)
    prefill, decode = (interpreter.get_signature_runner(name) for name in (f"prefill_{prompt}", "decode"))
    details = decode.get_input_details()
    empty = {name: np.zeros(one["shape"], one["dtype"]) for name, one in details.items() if name.startswith("kv_cache")}
    tokens, positions = np.arange(3, 3 + prompt, dtype=np.int32)[None], np.arange(prompt, dtype=np.int32)
    rates: list[tuple[float, float]] = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        outputs = prefill(tokens=tokens, input_pos=positions, **empty)
        prefilled = time.perf_counter()
        for position in range(prompt, prompt + DECODED):
            cache = {name: outputs[name] for name in empty}
            outputs = decode(tokens=np.array([[5]], np.int32), input_pos=np.array([position], np.int32), **cache)
        rates.append((prompt / (prefilled - began), DECODED / (time.perf_counter() - prefilled)))
    first, second = zip(*rates[1:], strict=True)  # the first is no repeat
    return statistics.median(first), statistics.median(second)


def theirs(flatbuffer: str, prompt: int, threads: int) -> tuple[float, float]:
    """The plain loop in a process of its own."""
    words = [sys.executable, __file__, "--loop", flatbuffer, str(prompt), str(threads)]
    ended = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    prefill, decode = json.loads(ended.stdout.splitlines()[-1])
    return prefill, decode


def ours(out: Path, threads: int) -> tuple[Path, StageSpeed, int]:
    """A run, what it says of the stage that ships, and the tokens of its prompt."""
    words = ("--stages", "reauthored,tflite-xnnpack", "--speed", "--speed-threads", str(threads))
    run = make_run(out, *words)
    table = read_record(run).speed
    assert table is not None
    return run, next(one for one in table.stages if one.stage == "tflite-xnnpack"), table.prompt


def main(rounds: int, threads: int) -> None:
    ratios: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        make_run(Path(temporary) / "first", "--stages", "reauthored,tflite-xnnpack")
        for number in range(rounds):
            run, mine, prompt = ours(Path(temporary) / str(number), threads)
            assert mine.prefill is not None
            assert mine.decode is not None
            models = json.loads((run / "explorer" / "models.json").read_text())
            prefill, decode = theirs(models["flatbuffers"]["none"], prompt, threads)
            ratios.append((mine.prefill.median / prefill, mine.decode.median / decode))
            print(
                f"round {number + 1}: prefill {mine.prefill.median:7.1f} and plain {prefill:7.1f} tok/s, ratio "
                f"{ratios[-1][0]:.3f}; decode {mine.decode.median:6.2f} and plain {decode:6.2f} tok/s, ratio "
                f"{ratios[-1][1]:.3f}; spread {100 * mine.decode.spread:.1f} %, others {mine.others}",
                flush=True,
            )
    for name, each in zip(("prefill", "decode"), zip(*ratios, strict=True), strict=True):
        print(f"median ratio of {name}: {statistics.median(each):.3f} (promised: 0.9 to 1.25)")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if sys.argv[1:2] == ["--loop"]:
        print(json.dumps(plain_loop(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--threads", type=int, default=usable_cores())
        given = parser.parse_args()
        main(given.rounds, given.threads)
