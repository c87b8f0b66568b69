"""What an artifact is, read back from its bytes alone: ops, dtypes, multiply-adds, integers, I/O, sizes, metadata.

Nothing here trusts what wrote the file. The rules, the same for both formats:

- An op is ``integer`` when every activation that it reads and writes is stored in an integer of at most 16 bits,
  ``dynamic`` when it multiplies integer weights with float activations that it quantizes while running, else ``float``.
- In ONNX, where every activation is float between a DequantizeLinear and a QuantizeLinear, an op is integer when all
  its float inputs come from the one and all its float outputs go to the other, if need be through a Relu or Clip: that
  is the pattern that runtimes turn into an integer kernel.
- A QUANTIZE of an input or a DEQUANTIZE of an output is ``boundary``, not an op: it is how a file offers float I/O.
- Shape arithmetic (int32, int64, bool only) is ``bookkeeping``, not an op either; constants that are dequantized once
  are storage.
- ``precision`` says "int8" only when no op is float.
"""

from __future__ import annotations

from pathlib import Path

from edgekit.audit.facts import Audit, AuditedOp, Terminal
from edgekit.errors import ModelError
from edgekit.runtimes import read

__all__ = ["Audit", "AuditedOp", "Terminal", "audit", "audit_file"]


def audit(data: bytes, name: str = "artifact") -> Audit:
    """Audit the bytes of an .onnx or .tflite file. Raises ModelError, one line that starts with ``name``."""
    try:
        if not data:
            raise ModelError("is empty; an .onnx or .tflite file is needed")
        if data[4:8] == b"TFL3":
            from edgekit.audit.tflite import audit_tflite

            return audit_tflite(data)
        from edgekit.audit.onnx import audit_onnx

        return audit_onnx(data)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error


def audit_file(path: Path) -> Audit:
    """Audit a file. Raises ModelError, one line that starts with its path."""
    return audit(read(path), str(path))
