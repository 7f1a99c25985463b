"""The check that comes with litert-torch: its verifier, which compares logits.

In: both networks. Out: whether it complains.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

# What litert-torch's own verify scripts give: the inputs and tolerances of its examples.
VERIFIED_INPUT = [1, 2, 3, 4]
_ABSOLUTE, _RELATIVE = 1e-4, 1e-5


def verifier_complains(original: Any, network: Any) -> bool:
    """litert-torch's `verify_with_input_ids`. original: the Hugging Face model."""
    from litert_torch.generative.utilities import transformers_verifier, verifier

    logging.disable(logging.CRITICAL)
    try:
        with torch.no_grad():
            verifier.verify_with_input_ids(
                transformers_verifier.TransformersModelWrapper(original),
                verifier.ReauthoredModelWrapper(network),
                VERIFIED_INPUT,
                rtol=_RELATIVE,
                atol=_ABSOLUTE,
            )
    except AssertionError:
        return True
    finally:
        logging.disable(logging.NOTSET)
    return False
