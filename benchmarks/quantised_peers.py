"""A quantised SmolLM2 file through Edge Parity and through ai-edge-quantizer's `validate()`, with a fault and without.

    python benchmarks/quantised_peers.py

The file is SmolLM2 by dynamic_int8. In a copy two scales of one layer, block 15's MLP output, are swapped: those of its
widest and of its narrowest channel. Prints for both files wall seconds and peak memory (of all processes together, as
in warm_run.py) of `edge-parity run smollm2 --tflite FILE` and of `validate()` with the SNR of each tensor, their
ratios, and what each says: ours its verdict and its findings; the other the lowest SNR and the place of the faulty
layer among all tensors, lowest first. It runs two signatures once, on one set of kernels, and compares two files; a run
compares six inputs, through four versions, on both sets.

Promise: the fault is named by its layer, and nothing is said of the clean file. It is a warning: without the recipe
nobody knows whether numbers were moved on purpose.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from _smollm2 import FAITHFUL, make_run
from warm_run import measured

from harness.flatbuffer.writing import Rewriting, text
from harness.record.record import read_record

RECIPE, LAYER = "dynamic_int8", "block.15.mlp.out"
FOLDER = Path(__file__).parent


def is_layer(name: str) -> bool:
    """Whether the operator that gives a tensor of this name is the layer."""
    first = name.split(";")[0]
    return "TransformerBlock_15/" in first and first.endswith("GatedFeedForward_ff/torch.nn.modules.linear.Linear_w2")


def flatbuffers(run: Path) -> dict[str, str]:
    """Those of a run, by recipe."""
    found: dict[str, str] = json.loads((run / "explorer" / "models.json").read_text())["flatbuffers"]
    return found


def swap_scales(source: Path, target: Path) -> tuple[float, float]:
    """Write a copy with two scales of the layer swapped, in every signature. Returns the two."""
    work = Rewriting(source)
    swapped: list[tuple[float, float]] = []
    for graph in work.model.subgraphs:
        for operator in graph.operators:
            if not is_layer(text(graph.tensors[operator.outputs[0]].name)):
                continue
            for index in operator.inputs:
                tensor = graph.tensors[index]
                scales = None if tensor.quantization is None else tensor.quantization.scale
                if scales is None or len(scales) < 2:
                    continue
                values = np.array(scales, np.float32)
                low, high = int(values.argmin()), int(values.argmax())
                values[[low, high]] = values[[high, low]]
                tensor.quantization.scale = values
                swapped.append((float(values[high]), float(values[low])))
    if len(swapped) != len(work.model.signatureDefs):
        sys.exit(f"{LAYER} was found {len(swapped)} times in {len(work.model.signatureDefs)} signatures of {source}")
    work.write(target)
    return swapped[0]


def ours(file: Path, out: Path) -> tuple[float, float, str]:
    """Seconds, GB and what a run says of the file."""
    words = [sys.executable, "-m", "harness.commands.main", "run", FAITHFUL, "--tflite", str(file), "--out", str(out)]
    seconds, peak = measured(words, memory=True, ends=(0, 1))
    record = read_record(next(out.glob("*/*/parity.json")).parent)
    told = [f"{one.severity} {one.code}: {one.what}" for one in record.findings if one.code.startswith("recipe-")]
    return seconds, peak, f"{record.verdict}; {'; '.join(told) or 'no finding on a weight'}"


def theirs(float32: str, file: Path, tokens: list[int], folder: Path) -> tuple[float, float, str]:
    """Seconds, GB and what `validate()` says of it."""
    job, out = folder / "job.json", folder / "snr.json"
    job.write_text(json.dumps({"float32": float32, "quantised": str(file), "tokens": tokens, "out": str(out)}))
    seconds, peak = measured([sys.executable, str(FOLDER / "_validate.py"), str(job)], memory=True)
    decibel = sorted(json.loads(out.read_text()).items(), key=lambda item: item[1])
    places = [i for i, (name, _) in enumerate(decibel) if is_layer(name)]
    name, lowest = decibel[0]
    said = f"lowest SNR {lowest:.1f} dB at ...{name[-60:]}"
    if places:
        said += f"; {LAYER}: {decibel[places[0]][1]:.1f} dB, number {places[0] + 1} of {len(decibel)}"
    return seconds, peak, said


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        first = make_run(folder / "first", "--quantize", RECIPE, "--stages", "reauthored,tflite-xnnpack")
        files, record = flatbuffers(first), read_record(first)
        tokens = max((item.token_ids for item in record.inputs), key=len)
        broken = folder / "broken.tflite"
        scales = swap_scales(Path(files[RECIPE]), broken)
        print(f"fault: scales {scales[0]:.3g} and {scales[1]:.3g} of {LAYER} swapped", flush=True)
        for which, file in (("clean", Path(files[RECIPE])), ("broken", broken)):
            mine, other = ours(file, folder / which), theirs(files["none"], file, tokens, folder)
            print(f"{which:7} edge-parity {mine[0]:6.1f} s {mine[1]:.2f} GB  {mine[2]}", flush=True)
            print(f"{which:7} validate()  {other[0]:6.1f} s {other[1]:.2f} GB  {other[2]}", flush=True)
            print(f"{which:7} ratio       {mine[0] / other[0]:6.2f}   {mine[1] / other[1]:.2f}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
