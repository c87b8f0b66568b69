"""The ops: one declaration each, one file a family. Importing this package declares them all."""

from edgekit.ops import (  # noqa: F401
    activation,
    conv,
    detect,
    elementwise,
    indexing,
    logic,
    matmul,
    norm,
    pool,
    recurrent,
    reduce,
    resize,
    shape,
)
from edgekit.ops.declare import OPS, Layout, LoweringError, OpDef, Quant, Scale

__all__ = ["OPS", "Layout", "LoweringError", "OpDef", "Quant", "Scale"]
