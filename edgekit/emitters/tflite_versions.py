"""The version of each TFLite operator, by which a runtime knows whether its kernel takes what is asked."""

from __future__ import annotations

from edgekit.emitters.tflite_graph import Op

# Operator version: (float, int8), or (float, int8, int16), where it is not (1, 2).
# tensorflow/lite/tools/versioning/op_version.cc
VERSIONS: dict[str, tuple[int, ...]] = {
    "CONV_2D": (1, 3, 4),
    "DEPTHWISE_CONV_2D": (1, 3, 5),
    "FULLY_CONNECTED": (1, 4, 7),
    "TRANSPOSE_CONV": (3, 3),
    "RESHAPE": (1, 1),
    "EXPAND_DIMS": (1, 1),
    "CAST": (1, 1),
    "WHILE": (1, 1),
    "PRELU": (1, 1),
    "HARD_SWISH": (1, 1),
    "ELU": (1, 1),
    "GELU": (1, 1),
    "DEPTH_TO_SPACE": (1, 1),
    "SQUEEZE": (1, 1),
    "TILE": (1, 1),
    "RSQRT": (1, 1),
    "NEG": (1, 1),
    "PACK": (1, 1),
    "UNPACK": (1, 1),
    "DENSIFY": (1, 1),
    "BROADCAST_TO": (2, 2),
    "RESIZE_BILINEAR": (3, 3),
    "RESIZE_NEAREST_NEIGHBOR": (3, 3),
}
PER_CHANNEL_FULLY_CONNECTED = 12


def version(op: Op) -> int:
    """The version of an operator's kernel that takes the types of its tensors."""
    data = next((t for t in op.inputs if t is not None and (t.data is None or op.code == "DEQUANTIZE")), op.outputs[0])
    kinds = {"int8": 1, "uint8": 1, "int16": 2}
    if op.code == "QUANTIZE":
        return 2 if data.dtype in kinds else 1
    weights = op.inputs[1].quant if op.code == "FULLY_CONNECTED" and op.inputs[1] is not None else None
    if weights is not None and weights.axis is not None and len(weights.scale) > 1:
        return PER_CHANNEL_FULLY_CONNECTED
    versions = VERSIONS.get(op.code, (1, 2))
    return versions[min(kinds.get(data.dtype, 0), len(versions) - 1)]
