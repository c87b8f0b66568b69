"""Small ONNX files of any opset and form, and both artifacts of a model run against its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit.emitters import Artifact, onnx_qdq, tflite
from edgekit.frontends import Loaded, load_source
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.quant.calibrate import observe, ranges_of
from edgekit.quant.plan import QuantPlan
from edgekit.quant.ranges import Method
from edgekit.quant.solve import Rules, solve
from edgekit.runners import ArtifactModel
from edgekit.samples import Sample

Array = NDArray[Any]
FLOAT = TensorProto.FLOAT
IR_VERSIONS = {11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8}
node = helper.make_node


def port(name: str, shape: Sequence[int | str] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    """An input or output; no shape leaves even the rank open."""
    return helper.make_tensor_value_info(name, kind, shape)


def const(name: str, value: Any, dtype: Any = None) -> onnx.TensorProto:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def weights(name: str, *shape: int, dtype: Any = np.float32) -> onnx.TensorProto:
    """A seeded initializer, of a size that keeps the variance of what goes through it."""
    values = np.random.default_rng(sum(name.encode())).normal(0, max(np.prod(shape[1:]), 1) ** -0.5, shape)
    return const(name, values, dtype)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    ports: tuple[Sequence[onnx.ValueInfoProto], Sequence[onnx.ValueInfoProto]],
    initializers: Sequence[onnx.TensorProto] = (),
    opset: int = 21,
    **more: Any,
) -> Path:
    """Write a model, unchecked, so that it may be wrong in any way. ``domains`` are those of its own ops."""
    graph = helper.make_graph(list(nodes), "net", list(ports[0]), list(ports[1]), list(initializers))
    domains = [helper.make_opsetid(name, 1) for name in more.pop("domains", ())]
    ir_version = more.pop("ir_version", IR_VERSIONS.get(opset, 10))
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), *domains], ir_version=ir_version, **more
    )
    path.write_bytes(proto.SerializeToString())
    return path


def cnn(path: Path, opset: int = 21, shape: Sequence[int | str] = (1, 3, 8, 8), **more: Any) -> Path:
    """Conv, BatchNormalization, Relu, MaxPool, Conv with a residual, mean over space, Gemm: 3x8x8 -> 5 scores."""
    nodes = [
        node("Conv", ["image", "w1"], ["c1"], pads=[1, 1, 1, 1], name="first"),
        node("BatchNormalization", ["c1", "gamma", "beta", "mean", "var"], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "p1"], ["a2"]),
        node("Relu", ["a2"], ["r2"]),
        node("GlobalAveragePool", ["r2"], ["g2"]),
        node("Flatten", ["g2"], ["f2"]),
        node("Gemm", ["f2", "head", "bias"], ["scores"], transB=1),
    ]
    held = [
        weights("w1", 6, 3, 3, 3),
        const("gamma", np.linspace(0.5, 1.5, 6), np.float32),
        const("beta", np.linspace(-0.2, 0.3, 6), np.float32),
        const("mean", np.linspace(-0.1, 0.1, 6), np.float32),
        const("var", np.linspace(0.8, 1.2, 6), np.float32),
        weights("w2", 6, 6, 3, 3),
        weights("b2", 6),
        weights("head", 5, 6),
        const("bias", np.linspace(-0.1, 0.1, 5), np.float32),
    ]
    inputs = [port("image", shape)]
    if more.pop("listed", False):
        inputs += [port(tensor.name, tensor.dims) for tensor in held]
    return save(path, nodes, (inputs, [port("scores", [shape[0], 5])]), held, opset, **more)


def inputs_of(model: ir.Model, count: int = 16, seed: int = 0) -> list[Sample]:
    """Seeded normal samples for every input of a model; small integers where it takes integers."""
    generator = np.random.default_rng(seed)

    def values(value: ir.Value) -> Array:
        shape = tuple(int(dim) for dim in value.shape or ())  # type: ignore[arg-type]
        whole = value.dtype is not None and not value.dtype.is_floating_point()
        drawn = generator.integers(0, 4, shape) if whole else generator.normal(size=shape)
        return np.asarray(drawn, value.dtype.numpy() if value.dtype is not None else np.float32)

    return [Sample({str(value.name): values(value) for value in model.graph.inputs}) for _ in range(count)]


def plan_of(
    graph: ir.Model, samples: Sequence[Sample], rules: Rules | None = None, method: str = "minmax"
) -> QuantPlan:
    """Calibrate a prepared graph and solve."""
    statistics = observe(graph, samples, Method(method), SilentProgress(), len(samples))
    return solve(graph, ranges_of(statistics, Method(method)), rules)


@dataclass(frozen=True)
class Both:
    """A model's two artifacts, with the samples and plan that they came from."""

    loaded: Loaded
    graph: ir.Model
    samples: list[Sample]
    plan: QuantPlan
    onnx: Artifact
    tflite: Artifact

    def snr(self, artifact: Artifact) -> dict[str, float]:
        """Signal-to-noise ratio of each output against the source model, dB; infinite when there is no noise."""
        runner = ArtifactModel(artifact.data)
        names = [str(value.name) for value in self.graph.graph.outputs]
        signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        for sample in self.samples:
            found = runner.outputs(sample.inputs)
            for name, wanted in zip(names, self.loaded.run(sample.inputs), strict=True):
                assert found[name].shape == wanted.shape
                signal[name] += float(np.sum(np.float64(wanted) ** 2))
                noise[name] += float(np.sum((np.float64(wanted) - np.float64(found[name])) ** 2))
        return {name: 10 * np.log10(signal[name] / noise[name]) if noise[name] else np.inf for name in names}


def both(source: str | Path, shapes: Mapping[str, Sequence[int]] | None = None, folder: Path | None = None) -> Both:
    """Load, calibrate on seeded samples and emit in both formats."""
    loaded = load_source(str(source), None, shapes, folder)
    graph = prepare(loaded.model)
    samples = inputs_of(graph)
    plan = plan_of(graph, samples)
    return Both(loaded, graph, samples, plan, onnx_qdq.emit(graph, plan), tflite.emit(graph, plan))
