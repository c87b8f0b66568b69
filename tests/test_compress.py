"""The graph as a torch module and back; ``[[compress]]`` in a build."""

from __future__ import annotations

import inspect

import numpy as np
import onnx
import pytest
import torch
from op_cases import CASES, Case
from small_graphs import Builder

from edgekit.compress.functions import FUNCTIONS, PLAIN
from edgekit.compress.module import SHAPED, to_torch
from edgekit.errors import UnsupportedError
from edgekit.graph import OPSET
from edgekit.passes import opened
from edgekit.reference import Reference

TRAINED = [case for case in CASES if case.op in {*FUNCTIONS, *SHAPED}]


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_torch_computes_what_onnx_does(case: Case) -> None:
    builder = Builder()
    out = case.build(builder, builder.input(*case.shape))
    graph = opened(builder.model(out))
    try:
        module = to_torch(graph)
    except UnsupportedError as error:
        pytest.skip(str(error.problems[0]))
    (sample,) = builder.samples(1, case.low, case.high)
    wanted = Reference(graph).run(sample)[str(graph.graph.outputs[0].name)]
    with torch.no_grad():
        found = module(*(torch.from_numpy(sample[str(v.name)]) for v in graph.graph.inputs))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - set(PLAIN)))
def test_signature_is_the_schema(name: str) -> None:
    schema = onnx.defs.get_schema(name, OPSET)
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    assert inputs == [one.name for one in schema.inputs][: len(inputs)]
    assert {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} == set(schema.attributes)
