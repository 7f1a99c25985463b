"""What the server that forks torch stages imports once, so that each stage need not.

It must start no thread and run no operator: a forked process inherits neither threads nor locks in use.
"""

import os

# Without these, transformers tries to import TensorFlow parts and to reach a hub at import time.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
