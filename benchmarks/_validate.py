"""ai-edge-quantizer's own comparison of a quantised file with the float32 one: `validate()`, SNR tensor by tensor.

In: a JSON file with `float32`, `quantised` (paths), `tokens` (of an input) and `out`. Out: a JSON file, tensor -> SNR
in dB, of decode and of prefill, each run once from an empty KV cache.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from ai_edge_quantizer import quantizer
from ai_edge_quantizer.utils import tfl_interpreter_utils
from ai_edge_quantizer.utils.validation_utils import ValidationErrorMetric

job = json.loads(Path(sys.argv[1]).read_text())
# The tokens that it draws itself lie outside the vocabulary.
data = tfl_interpreter_utils.create_random_normal_input_data(job["float32"], num_samples=1)
for (sample,) in data.values():
    for name, values in sample.items():
        if name == "tokens":
            sample[name] = np.resize(np.array(job["tokens"], values.dtype), values.shape)
        elif name == "input_pos":
            sample[name] = np.arange(values.size, dtype=values.dtype).reshape(values.shape)
        else:
            sample[name] = np.zeros_like(values)
made = quantizer.Quantizer(job["float32"], previous_quantized_model=job["quantised"])
found = made.validate(data, [ValidationErrorMetric.MSE, ValidationErrorMetric.SNR], use_xnnpack=True, num_threads=2)
decibel = {}
for key in found.available_signature_keys():
    result = found.get_signature_comparison_result(key)
    for tensors in (result.output_tensors, result.intermediate_tensors):
        for name, figures in tensors.items():
            if figures["snr"] > 0:  # it gives 0 for a tensor of zeros that agrees
                decibel[f"{key}: {name}"] = 10 * math.log10(figures["snr"])
Path(job["out"]).write_text(json.dumps(decibel))
