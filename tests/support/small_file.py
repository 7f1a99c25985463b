"""Flatbuffers made by hand, a few operators large: their parts, one of them whole, and its bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.flatbuffer.writing import tensor_map


def tensor(schema: Any, name: str, shape: list[int], buffer: int = 0, kind: str = "FLOAT32") -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.buffer = name, shape, buffer
    made.type = getattr(schema.TensorType, kind)
    return made


def operator(schema: Any, code: int, inputs: list[int], outputs: list[int]) -> Any:
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = code, inputs, outputs
    return made


def graph(tensors: list[Any], operators: list[Any], inputs: list[int], outputs: list[int]) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    made = schema.SubGraphT()
    made.name = "graph"
    made.tensors, made.operators, made.inputs, made.outputs = tensors, operators, inputs, outputs
    return made


def small() -> Any:
    """One signature, whose subgraph adds a constant in a composite and then once more."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version, model.description = 3, "small"
    model.buffers = [schema.BufferT(), schema.BufferT()]
    model.buffers[1].data = np.arange(8, dtype=np.float32).view(np.uint8)
    add, composite = schema.OperatorCodeT(), schema.OperatorCodeT()
    add.builtinCode = schema.BuiltinOperator.ADD
    composite.builtinCode = schema.BuiltinOperator.STABLEHLO_COMPOSITE
    composite.deprecatedBuiltinCode = 127
    model.operatorCodes = [add, composite]
    call = operator(schema, 1, [0, 1], [2])
    call.builtinOptions2Type = schema.BuiltinOptions2.StableHLOCompositeOptions
    call.builtinOptions2 = schema.StableHLOCompositeOptionsT()
    call.builtinOptions2.name, call.builtinOptions2.decompositionSubgraphIndex = "own.add", 1
    main = [tensor(schema, f"t{i}", [2, 4], buffer=int(i == 1)) for i in range(4)]
    inner = [tensor(schema, f"i{i}", [2, 4]) for i in range(3)]
    model.subgraphs = [
        graph(main, [call, operator(schema, 0, [2, 1], [3])], [0], [3]),
        graph(inner, [operator(schema, 0, [0, 1], [2])], [0, 1], [2]),
    ]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "decode", 0
    signature.inputs, signature.outputs = [tensor_map("tokens", 0)], [tensor_map("logits", 3)]
    model.signatureDefs = [signature]
    return model


def packed(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
