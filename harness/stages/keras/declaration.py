"""What a model of this route is: a causal language model of KerasHub, declared.

In: nothing. Out: `KerasModel`. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from harness.align.modules import ModuleNames
from harness.spec.model import Model

TASK = "GPT2CausalLM"


@dataclass(frozen=True)
class KerasModel(Model):
    """A language model of KerasHub, declared. name, hf_id, published and names are enough.

    names: where the published model keeps what is compared.
    task: the class in `keras_hub.models`.
    load: makes the model of a checkpoint folder; without it KerasHub's own `from_preset` does.
    step: what is converted, and what the stage runs, in place of the model's `call_with_cache`: called with the model,
        tokens `[1, time]`, the KV cache and the position of the first token; gives logits `[1, time, vocabulary]` and
        the new cache `[1, blocks, 2, positions, heads, head_dim]`. Of the cache it takes `cache[:, block, ...]`.
    tokenizer: makes the tokenizer of a checkpoint folder that stands in a file which takes and gives text, called as
        those of KerasHub are; without it that of the task, with the folder's byte pairs.
    """

    route: ClassVar[str] = "harness.stages.keras.route:ROUTE"

    names: ModuleNames
    task: str = field(default=TASK, kw_only=True)
    load: Callable[[Path], Any] | None = field(default=None, kw_only=True)
    step: Callable[[Any, Any, Any, Any], tuple[Any, Any]] | None = field(default=None, kw_only=True)
    tokenizer: Callable[[Path], Any] | None = field(default=None, kw_only=True)
