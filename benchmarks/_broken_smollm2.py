"""SmolLM2 with a mistake in the block in its middle: GELU where the published model has SiLU."""

from typing import Any

from litert_torch.generative.examples.smollm import smollm
from torch.nn.functional import gelu

from harness import GenerativeModel
from models.smollm2 import SMOLLM2


class Broken(smollm.SmolLM2):  # type: ignore[misc]  # its package brings no types
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        blocks = self.transformer_blocks
        blocks[len(blocks) // 2].ff.act = gelu


BROKEN = GenerativeModel(
    name="broken_smollm2",
    hf_id=SMOLLM2.hf_id,
    config=SMOLLM2.config,
    model_class=Broken,
    tensor_names=SMOLLM2.tensor_names,
    published=SMOLLM2.published,
    weights=SMOLLM2.weights,
)
