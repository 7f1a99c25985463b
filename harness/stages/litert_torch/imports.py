"""Import litert-torch without all of TensorFlow.

litert-torch 0.10 imports all of TensorFlow for one line of its LoRA layer, which takes the TFLite schema from it:
half of the seconds and of the memory of all these imports. The schema is one file that needs nothing of the rest.
Whoever needs TensorFlow itself still imports it as ever.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from harness.spec.imports import without_collecting

_SCHEMA = "tensorflow.lite.python.schema_py_generated"


def import_litert_torch() -> None:
    """The layers of litert-torch."""
    with without_collecting():
        importlib.import_module("litert_torch")
        with _schema_alone():
            importlib.import_module("litert_torch.generative.layers.lora")


def import_converter() -> None:
    """The layers of litert-torch and its converter."""
    import_litert_torch()
    importlib.import_module("litert_torch.generative.utilities.converter")


@contextmanager
def _schema_alone() -> Iterator[None]:
    """Within it, the TFLite schema is all there is of TensorFlow."""
    found = None if "tensorflow" in sys.modules else find_spec("tensorflow")
    file = Path(found.origin).parent / "lite/python/schema_py_generated.py" if found and found.origin else None
    schema = spec_from_file_location(_SCHEMA, file) if file is not None and file.is_file() else None
    if schema is None or schema.loader is None:
        yield  # another layout of TensorFlow: it is imported whole
        return
    parents = [_SCHEMA.rsplit(".", count)[0] for count in (3, 2, 1)]
    try:
        for name in parents:
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__spec__ = found  # torch asks for it
            sys.modules[name].__path__ = []  # a package
        sys.modules[_SCHEMA] = module_from_spec(schema)
        schema.loader.exec_module(sys.modules[_SCHEMA])
        setattr(sys.modules[parents[-1]], _SCHEMA.rpartition(".")[2], sys.modules[_SCHEMA])
        yield
    finally:
        for name in (*parents, _SCHEMA):
            sys.modules.pop(name, None)
