"""Calibration: stream samples through the float graph and keep statistics of each activation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from edgekit.errors import DataError
from edgekit.graph import activations
from edgekit.progress import Progress
from edgekit.quant.ranges import Method, Range, Statistics
from edgekit.reference import Reference
from edgekit.samples import Sample


def observe(
    model: ir.Model, samples: Iterable[Sample], method: Method, progress: Progress, total: int, threads: int = 1
) -> dict[str, Statistics]:
    """Activation name -> statistics over all samples. One sample is in memory at a time.

    Raises DataError when there is no sample, or when a tensor takes a value that is not finite.
    """
    names = [str(value.name) for value in activations(model.graph)]
    reference = Reference(model, names, threads)
    found = {name: Statistics() for name in names}
    seen = 0
    with progress.task("calibrate", total) as step:
        for sample in samples:
            for name, value in reference.run(sample.inputs).items():
                if name in found:
                    _take(found[name], name, value, method, seen)
            seen += 1
            step()
    if not seen:
        raise DataError("calibration data: holds no samples; at least one is needed")
    return found


def ranges_of(statistics: Mapping[str, Statistics], method: Method) -> dict[str, Range]:
    """The range of each tensor that was seen, to 12 significant bits: what lies below differs between machines."""
    found = {name: method.range_of(s) for name, s in statistics.items() if s.count}
    return {name: (rounded(low), rounded(high)) for name, (low, high) in found.items()}


def rounded(value: float) -> float:
    """The number to 12 significant bits."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 4096) / 4096, exponent)


def _take(statistics: Statistics, name: str, value: object, method: Method, sample: int) -> None:
    try:
        statistics.update(value, method.needs_histogram)  # type: ignore[arg-type]
    except ValueError as error:
        raise DataError(f"calibration sample {sample}: tensor {name} takes {error}") from error
