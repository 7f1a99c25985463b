"""What the server that forks torch stages imports once, so that each stage need not.

It must start no thread and run no operator: a forked process inherits neither threads nor locks in use.
"""

import gc
import importlib
import os
import sys
import traceback

from harness.processes.refusals import note_failure
from harness.processes.worker import die_with_parent, let_warnings_be
from harness.spec import patched
from harness.spec.imports import import_frameworks
from harness.spec.numerics import VARIABLES

die_with_parent(os.getppid())  # while it imports, it would not notice by itself

let_warnings_be()
# TensorFlow, which litert-torch imports, otherwise fills the log with notes about GPUs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

for name in VARIABLES:  # torch would read them; STARTED_WITH knows of them
    os.environ.pop(name, None)
try:
    import_frameworks()
    if sys.flags.optimize > 1:  # without docstrings, of which transformers makes others when a model is imported
        importlib.import_module("transformers.models.llama.modeling_llama")
    patched.remember()
except MemoryError:
    raise
except Exception as error:  # each process that is forked from this one says so
    traceback.print_exc()
    note_failure(error)
gc.freeze()  # what is here stays; a forked process that went through it would copy it
