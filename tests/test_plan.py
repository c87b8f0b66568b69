"""The plan is a value: it goes through JSON unchanged, equals its copy, and its hash is of all that it says."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from edgekit.quant.plan import HALF, LIMITS, Lift, QParams, QuantPlan

PLAN = QuantPlan(
    {
        "image": QParams("int8", (0.1,), (-3,)),
        "weight": QParams("int8", (0.25, 0.5), (0, 0), axis=3, narrow=True),
        "bias": QParams("int32", (1 / 3, 1e-9), (0, 0), axis=0),
        "half": QParams(HALF, (), ()),
    },
    frozenset({"softmax", "gelu"}),
)


def through_json(plan: QuantPlan) -> QuantPlan:
    return QuantPlan.from_json(json.loads(json.dumps(plan.to_json())))


def test_json_keeps_that_a_plan_is_exact() -> None:
    assert through_json(QuantPlan({}, exact=True)).exact and not through_json(QuantPlan({})).exact


def test_json_keeps_what_left_int8_and_why() -> None:
    lifts = (Lift("conv", "int16", "activations of x alone: 12.3 dB"), Lift("softmax", "float", "named"))
    plan = replace(PLAN, lifts=lifts)
    assert through_json(plan) == plan != PLAN and plan.sha256 != PLAN.sha256


def test_json_gives_an_equal_plan() -> None:
    back = through_json(PLAN)
    assert back == PLAN and back.sha256 == PLAN.sha256
    assert dict(back) == dict(PLAN.tensors) and back.float_nodes == PLAN.float_nodes


def test_json_keeps_every_bit_of_a_scale() -> None:
    scales = tuple(float(np.float32(s)) for s in np.random.default_rng(0).lognormal(-5, 6, 500))
    plan = QuantPlan({"w": QParams("int8", scales, (0,) * 500, axis=1)})
    assert through_json(plan)["w"].scale == scales


def test_the_order_of_tensors_is_no_part_of_a_plan() -> None:
    turned = QuantPlan(dict(reversed(PLAN.tensors.items())), PLAN.float_nodes)
    assert turned == PLAN and turned.sha256 == PLAN.sha256
    assert json.dumps(turned.to_json()) == json.dumps(PLAN.to_json())


@pytest.mark.parametrize(
    "change",
    [{"dtype": "uint8"}, {"scale": (0.1000001,)}, {"zero_point": (-2,)}, {"axis": 0}, {"narrow": True}],
    ids=lambda change: next(iter(change)),
)
def test_every_field_counts(change: dict[str, object]) -> None:
    image = replace(PLAN["image"], **change)  # type: ignore[arg-type]
    other = QuantPlan({**PLAN.tensors, "image": image}, PLAN.float_nodes)
    assert other != PLAN and other.sha256 != PLAN.sha256
    assert through_json(other) == other


def test_float_nodes_and_missing_tensors_count() -> None:
    without = QuantPlan({name: q for name, q in PLAN.items() if name != "half"}, PLAN.float_nodes)
    assert len({PLAN.sha256, without.sha256, QuantPlan(PLAN.tensors).sha256}) == 3
    assert "half" not in without and without.get("half") is None and len(without) == len(PLAN) - 1


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAN.float_nodes = frozenset()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        PLAN["image"].scale = (1.0,)  # type: ignore[misc]


@pytest.mark.parametrize("dtype", LIMITS)
def test_limits_are_those_of_the_type(dtype: str) -> None:
    info = np.iinfo(dtype)
    assert QParams(dtype, (1.0,), (0,)).limits == (info.min, info.max)
    assert QParams(dtype, (1.0,), (0,), narrow=True).limits == (info.min + 1, info.max)


def test_the_range_is_what_can_be_stored() -> None:
    assert QParams("int8", (0.5,), (-128,)).range == (0.0, 127.5)
    assert QParams("int8", (0.5,), (0,), narrow=True).range == (-63.5, 63.5)
