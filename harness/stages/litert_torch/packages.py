"""Which packages litert-torch's conversions are made with, and what in them decides what they make. Data alone."""

from __future__ import annotations

from harness.spec.route import Packages

PACKAGES = Packages(
    own="litert_torch",
    converting={
        "litert_torch": "litert-torch",
        "litert_converter": "litert-converter",
        "ai_edge_quantizer": "ai-edge-quantizer",
        "ai_edge_litert": "ai-edge-litert",
        "torch": "torch",
        "torchao": "torchao",
        "jax": "jax",
        "jaxlib": "jaxlib",
    },
    edited=frozenset({"litert_torch", "litert_converter", "ai_edge_quantizer"}),
    recorded=("litert-torch", "litert-converter"),
    tables=(
        ("litert_torch.backend.lowerings.registry", "global_registry", "registered_ops"),
        ("litert_torch.fx_infra.decomp", "_pre_convert_decomp"),
        ("litert_torch.fx_infra.decomp", "_pre_lower_decomp"),
    ),
    variables=("LITERT_", "JAX_", "XLA_", "ENABLE_GROUP_NORM_COMPOSITE", "LAYOUT_OPTIMIZE_", "RESOURCE_CONSTANT_"),
    talk=("LITERT_TORCH_SHOW_PROGRESS", "LITERT_TORCH_SILENCE_TORCH_LOGS", "JAX_LOG", "JAX_LOGGING", "XLA_HLO_DEBUG"),
)
