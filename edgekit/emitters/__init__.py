"""Emitters: (graph, plan) -> artifact bytes, in ONNX (QDQ) and TFLite."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.contract import Contract


@dataclass(frozen=True)
class Artifact:
    """A finished model file: its format ("onnx" or "tflite"), its bytes, and what goes in and out."""

    format: str
    data: bytes
    contract: Contract
