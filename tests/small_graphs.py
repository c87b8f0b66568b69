"""Small seeded graphs, and both artifacts of them run and compared: what the tests of ops, layout and passes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgekit.emitters import Artifact, onnx_qdq, tflite, tflite_bytes
from edgekit.frontends.onnx import finish
from edgekit.graph import OPSET
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.quant.calibrate import observe, ranges_of
from edgekit.quant.plan import QuantPlan
from edgekit.quant.precision import needs_calibration, plan_for
from edgekit.quant.ranges import Method
from edgekit.quant.solve import Rules
from edgekit.reference import Reference
from edgekit.runtimes import open_session
from edgekit.samples import Sample

Array = NDArray[Any]
SAMPLES = 4


class Builder:
    """Writes an ONNX graph node by node; names are numbered, weights are seeded."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.inputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def input(self, *shape: int, dtype: str = "float32", name: str = "") -> str:
        """A graph input; without a name the first is x, the next x1, x2, ..."""
        name = name or "x" + str(len(self.inputs) or "")
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def const(self, value: Any, dtype: str = "") -> str:
        """An initializer; integers are int64 and reals float32 unless told otherwise."""
        array = np.asarray(value)
        array = array.astype(dtype or ("float32" if array.dtype.kind == "f" else "int64"))
        name = f"c{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(array, name))
        return name

    def weights(self, *shape: int, scale: float | None = None) -> str:
        """Normal weights, by default as large as keeps the variance of what goes through them."""
        fan_in = int(np.prod(shape[1:])) or 1
        return self.const(self.rng.normal(0, scale or fan_in**-0.5, shape).astype(np.float32))

    def uniform(self, low: float, high: float, *shape: int) -> str:
        """An initializer with even values."""
        return self.const(self.rng.uniform(low, high, shape).astype(np.float32))

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; the output's name."""
        return self.nodes(op_type, 1, *inputs, **attributes)[0]

    def nodes(self, op_type: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node with several outputs; their names."""
        name = f"{op_type.lower()}{len(self._nodes)}"
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self._nodes.append(helper.make_node(op_type, list(inputs), names, name=name, **attributes))
        return names

    def conv(
        self, x: str, channels_in: int, channels_out: int, kernel: Sequence[int] = (1, 1), **attributes: Any
    ) -> str:
        """A convolution with seeded weights and a bias."""
        weights = self.weights(channels_out, channels_in // attributes.get("group", 1), *kernel)
        return self.node("Conv", x, weights, self.uniform(-0.2, 0.2, channels_out), **attributes)

    def model(self, *outputs: str) -> ir.Model:
        """The graph through the frontend, not yet prepared."""
        values = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self._nodes, "small", self.inputs, values, self._initializers)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        return finish(ir.from_proto(inferred), "small", None)

    def samples(
        self, count: int = SAMPLES, low: float | None = None, high: float | None = None
    ) -> list[dict[str, Array]]:
        """Values for the inputs: normal, or even between ``low`` and ``high``; small integers for integer inputs."""
        rng = np.random.default_rng(7)

        def value(info: onnx.ValueInfoProto) -> Array:
            shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            if dtype.kind != "f":
                return rng.integers(0, 2 if dtype.kind == "b" else 4, shape).astype(dtype)
            real = rng.normal(0, 1, shape) if low is None or high is None else rng.uniform(low, high, shape)
            return real.astype(dtype)

        return [{info.name: value(info) for info in self.inputs} for _ in range(count)]


@dataclass(frozen=True)
class Outcome:
    """The same samples through the float graph and both artifacts: one list of outputs (in order) a sample."""

    wanted: list[list[Array]]
    onnx: list[list[Array]]
    tflite: list[list[Array]]
    artifacts: tuple[Artifact, ...]
    plan: QuantPlan

    @property
    def codes(self) -> list[str]:
        """The operators of the TFLite file, in order."""
        return [op.code for op in tflite_bytes.read(self.artifacts[1].data).ops]

    def snr(self, which: str) -> float:
        """Signal-to-noise ratio of one format's artifact."""
        return snr(self.wanted, getattr(self, which))

    def steps(self) -> float:
        """By how many integers the two artifacts differ at most."""
        worst = 0.0
        for position, port in enumerate(self.artifacts[1].contract.outputs):
            for mine, theirs in zip(self.tflite, self.onnx, strict=True):
                gap = np.abs(mine[position].astype(np.float64) - theirs[position].astype(np.float64)).max(initial=0.0)
                worst = max(worst, float(gap) / (port.scale or 1.0))
        return worst


def snr(wanted: list[list[Array]], found: list[list[Array]]) -> float:
    """Signal-to-noise ratio in dB of all outputs together; a constant part of an output is no signal."""
    signal = noise = 0.0
    for position in range(len(wanted[0])):
        reference = np.asarray([sample[position] for sample in wanted], np.float64)
        got = np.asarray([sample[position] for sample in found], np.float64)
        signal += float(((reference - reference.mean()) ** 2).sum())
        noise += float(((reference - got) ** 2).sum())
    return float(10 * np.log10(signal / noise)) if noise else float("inf")


def floating(model: ir.Model, samples: Sequence[Mapping[str, Array]], input_layout: str = "NHWC") -> Outcome:
    """Both artifacts in float32."""
    return outcome(prepare(model), QuantPlan({}), model, samples, input_layout)


def quantized(model: ir.Model, samples: Sequence[Mapping[str, Array]], method: str = "minmax") -> Outcome:
    """Both artifacts in int8, calibrated on the very samples."""
    return outcome(*planned(model, samples, "int8", method), model, samples)


def planned(
    model: ir.Model, samples: Sequence[Mapping[str, Array]], precision: str, method: str = "minmax"
) -> tuple[ir.Model, QuantPlan]:
    """The prepared model and its plan in a precision, calibrated on the very samples where it has to be."""
    prepared, how, ranges = prepare(model), Method(method), {}
    if needs_calibration(precision):
        ranges = ranges_of(observe(prepared, [Sample(s) for s in samples], how, SilentProgress(), len(samples)), how)
    return prepared, plan_for(prepared, precision, ranges, Rules())


def outcome(
    prepared: ir.Model,
    plan: QuantPlan,
    source: ir.Model,
    samples: Sequence[Mapping[str, Array]],
    input_layout: str = "NHWC",
) -> Outcome:
    """Both artifacts of a plan."""
    beside = tflite.emit(prepared, plan, tflite.Options(input_layout))
    run, alone = runner(beside), onnx_alone(prepared, plan, source, samples)
    return replace(alone, tflite=[run(s) for s in samples], artifacts=(*alone.artifacts, beside))


def onnx_alone(
    prepared: ir.Model, plan: QuantPlan, source: ir.Model, samples: Sequence[Mapping[str, Array]]
) -> Outcome:
    """The ONNX artifact of a plan, where TFLite has none."""
    reference, artifact = Reference(source), onnx_qdq.emit(prepared, plan)
    run, names = runner(artifact), [str(value.name) for value in source.graph.outputs]
    wanted = [[found[name] for name in names] for found in (reference.run(sample) for sample in samples)]
    return Outcome(wanted, [run(s) for s in samples], [], (artifact,), plan)


def runner(artifact: Artifact) -> Callable[[Mapping[str, Array]], list[Array]]:
    """Run an artifact on real values in the source's layout."""
    session = open_session(artifact.data, "onnxruntime" if artifact.format == "onnx" else "litert")

    def run(sample: Mapping[str, Array]) -> list[Array]:
        return list(artifact.contract.decode(session.run(artifact.contract.encode(sample))).values())

    return run
