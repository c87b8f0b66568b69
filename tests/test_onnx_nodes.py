"""ONNX's own node cases of the declared ops: both float artifacts give the outputs that ONNX expects."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from small_graphs import Array, runner

from edgekit.emitters import onnx_qdq, tflite
from edgekit.errors import EdgekitError
from edgekit.frontends.onnx import OLDEST, load
from edgekit.ops import OPS
from edgekit.passes import prepare, steps
from edgekit.passes.known import REWRITTEN
from edgekit.quant.plan import QuantPlan

RTOL, ATOL = 1e-3, 1e-5
OPTIONAL = ("LayerNormalization", "MaxPool")  # their further outputs have no TFLite operator: run without them too
# Ops that are written as others: by a pass, or as ONNX defines them, where the one opset lacks them.
SPELLED_OUT = ("Attention", "Einsum", "GlobalLpPool", "LRN", "LpPool", "RMSNormalization", "RotaryEmbedding", "Swish")
EMIT = {
    "onnx": onnx_qdq.emit,
    "tflite": lambda graph, plan: tflite.emit(steps.shaped(graph, lambda node: "loop").model, plan),
}
DIFFERS = "Not equal to tolerance"
FLOAT8 = r"FLOAT8E\w+"
FED = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BOOL, TensorProto.INT32, TensorProto.INT64)
NARROW = r"(UINT4|INT4|UINT2|INT2)"
EMPTY = "every axis must be 1 or more"

# What is refused before anything is emitted: pattern of the case's name -> what is said.
UNFIT = {
    # A device has fixed shapes; a tensor of no elements is a mistake in the model.
    r"test_reduce_\w+_empty_set(_\w+)?": EMPTY,
    r"test_reshape_allowzero_reordered": EMPTY,
    r"test_split_zero_size_splits_opset\d+": EMPTY,
    r"test_tri[lu]_zero": EMPTY,
    r"test_castlike_(FLOAT_to_DOUBLE|DOUBLE_to_FLOAT)_expanded": EMPTY,
    r"test_mod_float_edge_cases_fmod_0_float64": "weights must be finite",
    # Forms that are newer than the one opset that everything is brought to.
    r"test_cast_e8m0_FLOAT_to_FLOAT8E8M0": "in a form that opset 21 lacks",
    # Loops come from recurrent layers, not from models.
    r"test_scan\w*": "op Scan is not supported",
    # A diagonal has no operator.
    r"test_einsum_batch_diagonal": "op Einsum of ...ii ->...i is not supported",
    # No form of a recurrent layer has these.
    r"test_lstm_with_peepholes": "with peephole weights is not supported",
    # An infinite mask that is an output by itself, or that only padding makes.
    r"test_attention_4d_with_past_and_present_qk_matmul_bias_[34]d_mask_causal": "weights must be finite",
    r"test_attention_4d_diff_heads_mask4d_padded_kv": "weights must be finite",
    # An artifact infers; it does not train.
    r"test_batchnorm_\w+_training_mode": "op BatchNormalization is supported for inference only",
    r"test_training_dropout_?\w*(?<!zero_ratio)(?<!zero_ratio_mask)": "op Dropout is supported for inference only",
}
# What one artifact cannot hold, or holds otherwise.
EXCLUDED: dict[str, dict[str, str]] = {
    "onnx": {
        # ONNX Runtime has no kernel for these types, or no way to hand them out.
        rf"test_cast(like)?_(no_saturate_)?FLOAT_to_{FLOAT8}": "which numpy lacks",
        rf"test_cast(like)?_FLOAT_to_{NARROW}": "No corresponding Numpy type",
        r"test_cast(like)?_FLOAT_to_FLOAT4E2M1": "Could not find an implementation for Cast",
        r"test_pow_types_float32_uint\d+": "Could not find an implementation for Pow",
        r"test_mod_float\w*_fmod_0(_float32)?": "while running Mod node",
        # Every floating-point type becomes float32, so that a cast to a narrower one rounds nothing.
        r"test_cast(like)?_FLOAT_to_BFLOAT16": DIFFERS,
        # ONNX Runtime aligns the corners of whole pixels, the specification those of a fractional size.
        r"test_resize_downsample_scales_(linear|cubic)_align_corners": DIFFERS,
    },
    "tflite": {
        r"test_cast(like)?_FLOAT_to_BFLOAT16": DIFFERS,  # as in ONNX
        r"test_resize_downsample_scales_(linear|cubic)_align_corners": DIFFERS,  # as ONNX Runtime
        # Element types that no TFLite kernel of these ops takes.
        rf"test_cast(like)?_(no_saturate_)?FLOAT_to_({FLOAT8}|FLOAT4E2M1)": "Cast: to float",
        rf"test_cast(like)?_FLOAT_to_{NARROW}": "Cast: to u?int",
        r"test_pow_types_int64_\w+": "float32, int32 can be lowered",
        # No TFLite operator does this.
        r"test_arg(max|min)_\w+_select_last_index": "TFLite's ARG_M.. gives the first",
        r"test_scatter(nd|_elements_with_reduction)_(max|min|mul|multiply)\w*": "TFLite's SCATTER_ND only adds",
        r"test_mod_int64_fmod": "fmod of int64",
        r"test_(a(cos|sin|tan)h?|cosh|sinh|erf)(?<!_atan)(_example)?": "has no float operator in TFLite",
        r"test_(average|max)pool_[23]d_dilations\w*": "dilated pooling has no TFLite operator",
        r"test_lppool_3d_default": "groups over three axes have no TFLite operator",
        r"test_convtranspose_3d": "1 to 2 are supported",
        r"test_nonmaxsuppression_\w+": "gives no fixed number of boxes",
        r"test_layer_normalization_\w+": "the second and third outputs",
        r"test_maxpool_with_argmax_\w+": "the second output",
        r"test_resize_tf_crop_and_resize\w*": "coordinate_transformation_mode tf_crop_and_resize",
    },
}


@dataclass(frozen=True)
class NodeCase:
    """One case: a model whose parameters are constants, what it is fed, and what it must give."""

    name: str
    model: onnx.ModelProto
    feeds: dict[str, Array]
    wanted: list[Array]


def parameters(graph: onnx.GraphProto) -> set[str]:
    """Inputs that are no activations, by the declaration of the op that reads them: they come as constants."""
    found = set()
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    for node in graph.node:
        declared = OPS.get(node.op_type)
        activations = declared.quant.inputs if declared else (0,)
        activations = None if node.op_type in SPELLED_OUT else activations
        for position, name in enumerate(node.input):
            if declared and types.get(name) == TensorProto.BOOL:
                continue
            setting = activations is not None and position not in activations
            if setting or (position and types.get(name) != TensorProto.FLOAT):
                found.add(name)
    return found


def array(value: Any) -> Array:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def case_of(source: Any) -> NodeCase | None:
    """A case of declared ops with float32 or bool activations; else None."""
    graph = source.model.graph
    if not {node.op_type for node in graph.node} <= {*OPS, *REWRITTEN, *SPELLED_OUT}:
        return None
    fixed = parameters(graph)
    fed = [value for value in graph.input if value.name not in fixed]
    if not fed or any(value.type.tensor_type.elem_type not in FED for value in fed):
        return None
    (inputs, outputs), *_ = source.data_sets
    values = {info.name: array(value) for info, value in zip(graph.input, inputs, strict=True)}
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    for entry in model.opset_import:
        entry.version = max(entry.version, OLDEST)  # the forms of And, Or, Xor and Not are older, and the same
    del model.graph.input[:]
    model.graph.input.extend(fed)
    model.graph.initializer.extend(
        numpy_helper.from_array(values[info.name], info.name) for info in graph.input if info.name in fixed
    )
    feeds = {info.name: values[info.name] for info in fed}
    return NodeCase(source.name, model, feeds, [array(value) for value in outputs])


def first_output(case: NodeCase) -> NodeCase:
    """The case without the outputs that its node need not have."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.output[1:]
    del model.graph.node[0].output[1:]
    return NodeCase(f"{case.name} (first output)", model, case.feeds, case.wanted[:1])


@pytest.fixture(scope="module")
def cases() -> dict[str, list[NodeCase]]:
    """Every case, by the op of its first node."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, about overflows that the cases mean to have
        sources = {source.name: source for source in collect_testcases()}
    found = defaultdict(list)
    for case in filter(None, map(case_of, sources.values())):
        nodes = case.model.graph.node
        found[nodes[0].op_type].append(case)
        if nodes[0].op_type in OPTIONAL and len(case.wanted) > 1:
            found[nodes[0].op_type].append(first_output(case))
    return found


def excluded(case: NodeCase, table: dict[str, str]) -> str:
    """What is said of a case that is not expected to work; empty where it is."""
    return next((said for pattern, said in table.items() if re.fullmatch(pattern, case.name)), "")


def outcomes(case: NodeCase, path: Path) -> Iterator[tuple[str, str, str]]:
    """(stage, what was expected to be said, what was said); nothing is said where all is right."""
    path.write_bytes(case.model.SerializeToString())
    unfit = excluded(case, UNFIT)
    try:
        graph = prepare(load(path, {name: list(value.shape) for name, value in case.feeds.items()}).model)
    except EdgekitError as error:
        yield "graph", unfit, str(error)
        return
    yield "graph", unfit, ""
    for form, emit in EMIT.items():
        said = ""
        try:
            found = runner(emit(graph, QuantPlan({})))(case.feeds)
            for got, wanted in zip(found, case.wanted, strict=True):
                assert got.shape == wanted.shape
                np.testing.assert_allclose(got, wanted, RTOL, ATOL)
        except (EdgekitError, AssertionError) as error:
            said = str(error)
        yield form, excluded(case, EXCLUDED[form]), said


@pytest.mark.parametrize("op", sorted({*OPS, *REWRITTEN, *SPELLED_OUT}))
def test_node_cases(op: str, cases: dict[str, list[NodeCase]], tmp_path: Path) -> None:
    wrong = []
    for case in cases[op]:
        for stage, expected, said in outcomes(case, tmp_path / "case.onnx"):
            if expected and not said:
                wrong.append(f"{case.name}: {stage}: works; take it out of the excluded")
            elif bool(expected) != bool(said) or not re.search(expected, said):
                wrong.append(f"{case.name}: {stage}: {' '.join(said.split())[:300]}")
    assert not wrong, "\n".join(wrong)


def test_what_is_excluded_exists(cases: dict[str, list[NodeCase]]) -> None:
    names = [case.name for found in cases.values() for case in found]
    assert len(names) > 400
    patterns = {*UNFIT, *EXCLUDED["onnx"], *EXCLUDED["tflite"]}
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in names)] == []
    assert [op for op in OPS if not cases[op]] == []
