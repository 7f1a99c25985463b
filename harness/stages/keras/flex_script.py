"""Runs a file that takes and gives text. Started by the interpreter of the environment that has Flex, as a script.

In: a JSON file: the flatbuffer, and prompts in hexadecimal by id. Out: a JSON file: what it gave for each, the text in
hexadecimal. It imports nothing of the harness: that environment has TensorFlow and NumPy alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1


def main(told: str, said: str) -> None:
    """told, said: paths."""
    with contextlib.suppress(OSError, AttributeError):  # end with whoever started it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with open(told, encoding="utf-8") as file:
        asked = json.load(file)
    found = run(asked["flatbuffer"], {name: bytes.fromhex(text) for name, text in asked["prompts"].items()})
    with open(said, "w", encoding="utf-8") as file:
        json.dump(found, file)


def run(flatbuffer: str, prompts: dict[str, bytes]) -> dict[str, Any]:
    import numpy as np
    import tensorflow as tf
    import tensorflow_text
    from tensorflow.lite.python.interpreter import InterpreterWithCustomOps

    registerers = tensorflow_text.tflite_registrar.SELECT_TFTEXT_OPS
    interpreter = InterpreterWithCustomOps(model_path=flatbuffer, custom_op_registerers=registerers)
    generate = interpreter.get_signature_runner("generate")
    given = {}
    for name, prompt in prompts.items():
        made = generate(prompt=np.array([prompt], dtype=object))
        given[name] = {
            "text": bytes(made["text"].reshape(-1)[0]).hex(),
            "prompt_tokens": made["prompt_tokens"].reshape(-1).tolist(),
            "tokens": made["generated"].reshape(-1).tolist(),
        }
        print(f"{name}: {len(given[name]['prompt_tokens'])} tokens in", flush=True)
    return {"runtime": f"tensorflow {tf.__version__}, tensorflow-text {tensorflow_text.__version__}", "given": given}


if __name__ == "__main__":
    main(*sys.argv[1:])
