"""The ops: one declaration each, one file a family. Importing this package declares them all."""

from edgekit.ops import activation, conv, detect, elementwise, matmul, norm, pool, reduce, resize, shape  # noqa: F401
from edgekit.ops.declare import OPS, Layout, LoweringError, OpDef, Quant, Scale

__all__ = ["OPS", "Layout", "LoweringError", "OpDef", "Quant", "Scale"]
