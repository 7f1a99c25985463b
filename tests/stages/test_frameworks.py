"""The frameworks that torch stages share, imported in a process of their own."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

LOOK = """
import gc, sys, threading
import harness.spec.imports as frameworks
frameworks.import_frameworks()
print("tensorflow" in sys.modules, gc.isenabled(), threading.active_count())
from litert_torch.generative.layers import lora
print(lora.schema_fb.ModelT.__name__)
from tensorflow.lite.python import schema_py_generated as schema
import tensorflow
print(tensorflow.add(1, 1).numpy(), schema.ModelT.__name__)
"""


@pytest.mark.further
def test_tensorflow_is_left_out_and_still_there_for_whoever_imports_it():
    ended = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines() == ["False True 1", "ModelT", "2 ModelT"], ended.stderr[-2000:]
