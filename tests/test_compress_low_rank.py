"""Low-rank decomposition: exact at full rank, cheaper where it replaces, and ranks by energy, noise or budget."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compressible import compressed, network, samples
from small_graphs import Builder, floating, quantized

from edgekit.compress import cp
from edgekit.compress.layers import layers_of, macs_of, macs_of_node
from edgekit.compress.low_rank import FORMS, Candidate, form_of, replace
from edgekit.compress.module import to_torch
from edgekit.compress.ranks import by_energy, by_vbmf
from edgekit.errors import ConfigError
from edgekit.frontends.onnx import infer_shapes
from edgekit.graph import attributes
from edgekit.passes import opened
from edgekit.passes.constants import remove_unused
from edgekit.reference import Reference


def convolution(kernel: tuple[int, ...] = (3, 3), size: tuple[int, ...] = (9, 8), **attributes: object) -> ir.Model:
    b = Builder(1)
    return opened(b.model(b.conv(b.input(1, 6, *size), 6, 10, kernel, **attributes)))


def matrix(op: str, **attributes: object) -> ir.Model:
    b = Builder(2)
    shape = (6, 10) if op == "MatMul" or not attributes.get("transB") else (10, 6)
    x = b.input(*((2, 5, 6) if op == "MatMul" else (3, 6)))
    bias = [] if op == "MatMul" else [b.uniform(-1.0, 1.0, 10)]
    return opened(b.model(b.node(op, x, b.weights(*shape), *bias, **attributes)))


WHOLE = {
    "tucker": convolution(pads=[1, 1, 1, 1]),
    "tucker, strided and padded unevenly": convolution(pads=[0, 1, 2, 1], strides=[2, 1], dilations=[1, 2]),
    "tucker, same padding": convolution(auto_pad="SAME_UPPER", strides=[2, 2]),
    "tucker, one axis": convolution((3,), (9,), pads=[1, 1]),
    "spatial": convolution((3, 5), pads=[1, 2, 1, 2]),
    "spatial, strided and padded unevenly": convolution(pads=[0, 1, 2, 1], strides=[2, 1], dilations=[1, 2]),
    "spatial, same padding": convolution(auto_pad="SAME_LOWER", strides=[2, 2]),
    "separable": convolution(pads=[1, 1, 1, 1]),
    "separable, strided and padded unevenly": convolution(pads=[0, 1, 2, 1], strides=[2, 1], dilations=[1, 2]),
    "matrix": convolution((1, 1)),
    "matrix, strided and padded": convolution((1, 1), pads=[1, 0, 0, 1], strides=[2, 2]),
    "matrix of a Gemm": matrix("Gemm", transB=1, alpha=0.5, beta=2.0),
    "matrix of a Gemm that is not transposed": matrix("Gemm"),
    "matrix of a MatMul": matrix("MatMul"),
}


def of_terms(kernel: tuple[int, int], terms: int, noise: float = 0.0) -> np.ndarray:
    """A weight (10, 6, rows, columns) that is a sum of so many products of one vector an axis, and noise."""
    rng = np.random.default_rng(4)
    vectors = [rng.normal(size=(size, terms)) for size in (10, 6, *kernel)]
    found = np.einsum("or,ir,hr,wr->oihw", *vectors)
    return (found + noise * rng.normal(size=found.shape)).astype(np.float32)


def convolution_of(weight: np.ndarray, **attributes: object) -> ir.Model:
    b = Builder(1)
    return opened(b.model(b.node("Conv", b.input(1, 6, 9, 8), b.const(weight), b.uniform(-0.2, 0.2, 10), **attributes)))


OF_TERMS = {
    "one": convolution_of(of_terms((3, 3), 1), pads=[1, 1, 1, 1]),
    "four": convolution_of(of_terms((3, 5), 4), pads=[1, 2, 1, 2]),
    "strided and padded unevenly": convolution_of(
        of_terms((3, 3), 4), pads=[0, 1, 2, 1], strides=[2, 1], dilations=[1, 2]
    ),
    "more terms than channels": convolution_of(of_terms((3, 3), 8), auto_pad="SAME_LOWER", strides=[2, 2]),
}


def kind_of(name: str) -> str:
    return name.replace(",", " ").split()[0]


def outputs(graph: ir.Model, count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(5)
    reference, (port,) = Reference(graph), graph.graph.inputs
    found = [reference.run({port.name: rng.normal(size=port.shape).astype(np.float32)}) for _ in range(count)]
    return np.stack([values[graph.graph.outputs[0].name] for values in found])


def replaced(graph: ir.Model, kind: str, ranks: tuple[int, ...] | None = None) -> tuple[ir.Model, Candidate]:
    """A graph whose only layer is decomposed with the given ranks, by default the full ones."""
    copy = graph.clone()
    (layer,) = layers_of(copy)
    assert form_of(layer, kind) == (kind if kind in FORMS else None)
    candidate = Candidate.of(layer, kind)
    parts = FORMS[kind].parts(layer, ranks or candidate.ranks(1.0))
    replace(copy, layer, parts)
    remove_unused(copy)
    return infer_shapes(copy), Candidate.of(layers_of(graph)[0], kind)


@pytest.mark.parametrize("name", WHOLE)
def test_at_full_rank_it_is_the_same_function(name: str) -> None:
    graph = WHOLE[name]
    found, _ = replaced(graph, kind_of(name))
    assert outputs(found) == pytest.approx(outputs(graph), abs=2e-5)
    assert [value.name for value in found.graph.outputs] == [value.name for value in graph.graph.outputs]


@pytest.mark.parametrize("name", OF_TERMS)
def test_cp_meets_a_weight_of_its_rank_exactly(name: str) -> None:
    graph = OF_TERMS[name]
    (layer,) = layers_of(graph)
    assert form_of(layer, "cp") == "cp"
    ranks = Candidate.of(layer, "cp").ranks(1 - 1e-9)
    assert ranks == ({"one": 1, "more terms than channels": 8}.get(name, 4),)
    found, candidate = replaced(graph, "cp", ranks)
    assert [int(attributes(node).get("group", 1)) for node in found.graph] == [1, ranks[0], ranks[0], 1]
    assert outputs(found) == pytest.approx(outputs(graph), abs=1e-4)
    assert FORMS["cp"].cost(candidate.layer, ranks) == macs_of(found)


def error_and_size(weight: np.ndarray, rank: int) -> tuple[float, float]:
    """What a CP decomposition misses, and how large its terms are together, as shares of the weight."""
    factors, energy = cp.decompose(weight, rank), (weight**2).sum()
    lengths = np.stack([np.linalg.norm(factor, axis=0) for factor in factors])
    assert lengths == pytest.approx(np.broadcast_to(lengths[0], lengths.shape), rel=1e-6)
    gap = weight - np.einsum("or,ir,hr,wr->oihw", *factors)
    return (gap**2).sum() / energy, (lengths.prod(axis=0) ** 2).sum() / energy


def test_the_penalty_keeps_terms_of_cp_small_and_hardly_costs_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(2).normal(size=(16, 16, 3, 3))
    found = [error_and_size(weight, rank) for rank in (8, 16, 32)]
    assert found == [error_and_size(weight, rank) for rank in (8, 16, 32)]
    assert found[0][0] > found[1][0] > found[2][0]
    monkeypatch.setattr(cp, "PENALTY", 0.0)
    without = [error_and_size(weight, rank) for rank in (8, 16, 32)]
    assert all(one[0] < 1.05 * other[0] for one, other in zip(found, without, strict=True))
    assert found[2][1] < 0.5 * without[2][1]
    assert not any(factor.any() for factor in cp.decompose(np.zeros((4, 4, 3, 3)), 2))


def test_cp_finds_the_terms_under_noise() -> None:
    clean, noisy = of_terms((3, 3), 4), of_terms((3, 3), 4, noise=0.05)
    found = np.einsum("or,ir,hr,wr->oihw", *cp.decompose(noisy.astype(np.float64), 4))
    assert np.linalg.norm(found - clean) < 0.5 * np.linalg.norm(noisy - clean)


RANKS = {"tucker": (4, 3), "spatial": (5,), "separable": (1,), "matrix": (3,)}


@pytest.mark.parametrize("name", [name for name in WHOLE if "one axis" not in name])
def test_the_cost_that_ranks_are_chosen_by_is_that_of_the_graph(name: str) -> None:
    kind = kind_of(name)
    found, candidate = replaced(WHOLE[name], kind, RANKS[kind])
    assert FORMS[kind].cost(candidate.layer, RANKS[kind]) == macs_of(found)


@pytest.mark.parametrize(("ranks", "nodes"), [((10, 3), 2), ((4, 6), 2), ((4, 3), 3), ((10, 6), 1)])
def test_a_side_of_full_rank_gets_no_layer_of_its_own(ranks: tuple[int, int], nodes: int) -> None:
    found, candidate = replaced(WHOLE["tucker"], "tucker", ranks)
    assert len(found.graph) == nodes
    assert FORMS["tucker"].cost(candidate.layer, ranks) == macs_of(found)


def test_a_weight_of_low_rank_is_kept_exactly_by_its_rank() -> None:
    rng = np.random.default_rng(0)
    b = Builder()
    core = np.einsum("or,is,rshw->oihw", *(rng.normal(size=s) for s in ((16, 3), (12, 2), (3, 2, 3, 3))))
    graph = opened(b.model(b.node("Conv", b.input(1, 12, 6, 6), b.const(core.astype(np.float32) / 9))))
    for energy in (None, 1 - 1e-9):
        written = {} if energy is None else {"energy": energy}
        found = compressed(graph, method="low-rank", epochs=0, **written)
        assert found.facts["layers"]["c0"]["ranks"] == [3, 2]
        assert outputs(found.graph) == pytest.approx(outputs(graph), abs=1e-4)


@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("shape", [(64, 100), (100, 64), (40, 400)])
def test_vbmf_finds_the_rank_under_noise(shape: tuple[int, int], noise: float) -> None:
    rng = np.random.default_rng(0)
    planted = rng.normal(size=(shape[0], 7)) @ rng.normal(size=(7, shape[1]))
    singular = np.linalg.svd(planted + noise * rng.normal(size=shape), compute_uv=False)
    assert by_vbmf(singular, shape) == 7
    only_noise = np.linalg.svd(rng.normal(size=shape), compute_uv=False)
    assert by_vbmf(only_noise, shape) == 1
    assert by_vbmf(np.zeros(min(shape)), shape) == 1


def test_energy_is_the_share_of_the_squares() -> None:
    singular = np.sqrt([6.0, 3.0, 1.0])
    assert [by_energy(singular, share) for share in (0.0, 0.5, 0.6, 0.61, 0.9, 0.91, 1.0)] == [1, 1, 1, 2, 2, 3, 3]
    assert by_energy(np.zeros(3), 0.5) == 1


@pytest.mark.parametrize("kind", ["tucker", "spatial", "cp", "separable"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_budget_is_kept_and_used(kind: str, share: float) -> None:
    graph = network()
    found = compressed(graph, method="low-rank", kind=kind, macs=share, epochs=0)
    facts = found.facts
    assert facts["macs_before"] == macs_of(graph)
    assert facts["macs_after"] == macs_of(found.graph) <= share * facts["macs_before"]
    saved = sum(x["macs_before"] - x["macs_after"] for x in facts["layers"].values())
    assert saved == facts["macs_before"] - facts["macs_after"]
    more = compressed(graph, method="low-rank", kind=kind, energy=min(1.0, facts["energy"] + 1e-3), epochs=0)
    assert more.facts["macs_after"] > share * facts["macs_before"], "a little more energy is beyond the budget"


def test_what_gets_no_cheaper_is_left_alone() -> None:
    graph = network()
    found = compressed(graph, method="low-rank", energy=1.0, epochs=0)
    assert not found.facts["layers"]
    assert set(found.facts["left"]) == {layer.name for layer in layers_of(graph)}
    assert found.facts["macs_after"] == found.facts["macs_before"]
    assert outputs(found.graph) == pytest.approx(outputs(graph), abs=1e-6)


def test_each_replaced_layer_is_cheaper_and_keeps_the_name_of_its_output() -> None:
    graph = network()
    found = compressed(graph, method="low-rank", energy=0.7, epochs=0)
    before = {str(node.outputs[0].name): macs_of_node(node) for node in graph.graph}
    assert found.facts["layers"]
    assert set(before) <= {str(node.outputs[0].name) for node in found.graph.graph}
    assert all(said["macs_after"] < said["macs_before"] for said in found.facts["layers"].values())


@pytest.mark.parametrize("attributes", [{"group": 2}, {"group": 6}])
def test_grouped_convolutions_have_no_form(attributes: dict[str, int]) -> None:
    b = Builder(1)
    graph = opened(b.model(b.conv(b.input(1, 6, 8, 8), 6, 6, (3, 3), **attributes)))
    (layer,) = layers_of(graph)
    assert [form_of(layer, kind) for kind in ("tucker", "spatial", "cp", "separable")] == [None] * 4


def test_a_shared_weight_and_a_transposed_input_have_no_form() -> None:
    b = Builder(1)
    x, shared = b.input(6, 6), b.weights(6, 6)
    h = b.node("MatMul", b.node("MatMul", x, shared), shared)
    graph = opened(b.model(b.node("Gemm", h, b.weights(6, 6), transA=1)))
    assert [form_of(layer, "tucker") for layer in layers_of(graph)] == [None, None]


@pytest.mark.parametrize("kind", ["tucker", "spatial", "cp", "separable"])
def test_it_is_trained_and_both_artifacts_take_it_in_float_and_int8(kind: str) -> None:
    graph = network()
    still = compressed(graph, method="low-rank", kind=kind, macs=0.5, epochs=0)
    found = compressed(graph, method="low-rank", kind=kind, macs=0.5, epochs=3, batch=8, rate=0.05)
    assert found.facts["layers"] == still.facts["layers"]
    assert found.facts["epochs"] == 3
    assert any((outputs(found.graph) != outputs(still.graph)).reshape(-1))
    assert "c0.first.weight" in to_torch(found.graph).state_dict()
    data = [sample.inputs for sample in samples(8)]
    for outcome, least in ((floating(found.graph, data), 90), (quantized(found.graph, data), 20)):
        assert outcome.snr("onnx") > least and outcome.snr("tflite") > least


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"energy": 0.9, "macs": 0.5}, "either energy or macs says the ranks"),
        ({"energy": 0.0}, "energy: 0 was given, a share above 0 and up to 1"),
        ({"macs": 1.5}, "macs: 1.5 was given, a share above 0 and up to 1"),
        ({"macs": 0.001}, "with ranks of 1 the network still needs 0.0"),
        ({"kind": "svd"}, "is not one of tucker, spatial, cp, separable"),
    ],
)
def test_settings_that_say_nothing_sound_are_refused(written: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compressed(network(), method="low-rank", epochs=0, **written)
