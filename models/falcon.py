"""Falcon RW 1B: a miniature of the published config unless `--checkpoint` brings the real weights."""

from dataclasses import replace

from litert_torch.generative.examples.falcon import falcon
from transformers import FalconConfig

from harness import GenerativeModel

# https://huggingface.co/tiiuae/falcon-rw-1b/blob/main/config.json
# Confirmed by an excerpt, and by the checkpoint's number of parameters.
FALCON = GenerativeModel(
    name="falcon",
    hf_id="tiiuae/falcon-rw-1b",
    config=falcon.get_model_config,
    model_class=falcon.Falcon,
    tensor_names=replace(falcon.TENSOR_NAMES, lm_head=None),  # the checkpoint is tied and stores no lm_head
    published=lambda: FalconConfig(
        vocab_size=50304, hidden_size=2048, num_hidden_layers=24, num_attention_heads=32, alibi=True, bias=True,
        multi_query=False, parallel_attn=False, new_decoder_architecture=False, layer_norm_epsilon=1e-5,
        tie_word_embeddings=True,
    ),
    coverage={
        "hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.93,
        # Without composites the converter folds norms into the linear layers after them.
        "reauthored->tflite-builtin [no-hlfb]": 0.86, "reauthored->tflite-xnnpack [no-hlfb]": 0.86,
    },
)  # fmt: skip

# The example's own names ask for an lm_head, and loading stops with a KeyError.
FALCON_SHIPPED_NAMES = replace(FALCON, name="falcon_shipped_names", tensor_names=falcon.TENSOR_NAMES)
