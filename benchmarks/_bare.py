"""What a careful user would write instead: load each version, run the inputs, look at nothing.

In: a JSON file with `checkpoint`, `flatbuffer`, `inputs` (token ids, decode tail), `prefill`, `kv_cache_len`.
No capture, no comparison, no second pass, one version after the other with all cores.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from litert_torch.generative.examples.smollm import smollm
from litert_torch.generative.layers import kv_cache
from transformers import AutoModelForCausalLM

from harness.inputs.tokens import schedule

job = json.loads(Path(sys.argv[1]).read_text())
inputs = [(item["tokens"], item["decode_tail"]) for item in job["inputs"]]


def steps(tokens, tail):
    for step in schedule(len(tokens), tail, job["prefill"], job["kv_cache_len"]):
        ids = np.zeros((1, step.size), np.int32)
        ids[0, : step.valid] = tokens[step.start : step.start + step.valid]
        yield step.signature, ids, np.arange(step.start, step.start + step.size, dtype=np.int32)


def hugging_face(dtype):
    model = AutoModelForCausalLM.from_pretrained(job["checkpoint"], dtype=dtype)
    with torch.inference_mode():
        for tokens, _ in inputs:
            model(torch.tensor([tokens]))


def reauthored():
    model = smollm.build_model_v2(job["checkpoint"], mask_cache_size=job["kv_cache_len"])
    for tokens, tail in inputs:
        cache = kv_cache.KVCache.from_model_config(job["kv_cache_len"], model.config)
        for _, ids, positions in steps(tokens, tail):
            cache = model(torch.from_numpy(ids), torch.from_numpy(positions), cache)["kv_cache"]


def tflite(resolver):
    interpreter = Interpreter(job["flatbuffer"], num_threads=2, experimental_op_resolver_type=resolver)
    runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    for tokens, tail in inputs:
        cache = {}
        for name, ids, positions in steps(tokens, tail):
            details = runners[name].get_input_details()
            cache = cache or {
                key: np.zeros(entry["shape"], entry["dtype"])
                for key, entry in details.items()
                if key.startswith("kv_cache")
            }
            outputs = runners[name](tokens=ids, input_pos=positions, **cache)
            cache = {key: outputs[key] for key in cache}


hugging_face(torch.float64)
hugging_face(torch.float32)
reauthored()
tflite(OpResolverType.AUTO)
tflite(OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
