"""The contract between an artifact and its user: real values in source layout to stored ones and back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from edgekit.contract import Contract, Port
from edgekit.errors import DataError

NCHW, NHWC = (0, 1, 2, 3), (0, 2, 3, 1)
IMAGE = Port("image", (1, 4, 5, 3), "int8", NHWC, "NHWC", 0.05, -7)
SAME = Port("image", (1, 3, 4, 5), "int8", NCHW, "NCHW", 0.05, -7)
SCORES = Port("scores", (1, 6), "int8", (0, 1), "", 0.25, 3)
CONTRACT = Contract((IMAGE,), (SCORES,), {"image": {"mean": [0.5], "layout": "NCHW"}}, ("cat", "dog"))


def image(low: float = -6.0, high: float = 6.0) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, (1, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("port", [IMAGE, SAME], ids=["NHWC", "NCHW"])
def test_there_and_back_is_within_half_a_step(port: Port) -> None:
    assert port.source_shape == (1, 3, 4, 5)
    stored = port.encode(image())
    assert stored.shape == port.shape and stored.dtype == np.int8 and stored.flags.c_contiguous
    assert np.abs(port.decode(stored) - image()).max() <= 0.05 / 2 + 1e-6


def test_layouts_hold_the_same_integers() -> None:
    np.testing.assert_array_equal(IMAGE.encode(image()), SAME.encode(image()).transpose(NHWC))


def test_decoded_values_encode_to_the_same_integers() -> None:
    every = np.arange(-128, 128, dtype=np.int8).reshape(1, 16, 16, 1)
    port = replace(IMAGE, shape=(1, 16, 16, 1))
    np.testing.assert_array_equal(port.encode(port.decode(every)), every)


def test_values_beyond_the_range_stop_at_its_ends() -> None:
    stored = IMAGE.encode(np.full((1, 3, 4, 5), 1e6, np.float32) * np.float32([[[[1]], [[-1]], [[0]]]]))
    assert [int(stored[..., i].min()) for i in range(3)] == [127, -128, -7]


@pytest.mark.parametrize("perm", [(0, 2, 1), (1, 2, 0), (2, 0, 1)])
def test_any_order_of_axes(perm: tuple[int, ...]) -> None:
    value = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    port = Port("x", tuple(value.shape[a] for a in perm), "float32", perm)
    assert port.source_shape == value.shape
    np.testing.assert_array_equal(port.encode(value), value.transpose(perm))
    np.testing.assert_array_equal(port.decode(port.encode(value)), value)


def test_uint8_and_plain_integers() -> None:
    shifted = replace(IMAGE, dtype="uint8", zero_point=121)
    assert np.array_equal(shifted.encode(image()).astype(int) - 128, IMAGE.encode(image()).astype(int))
    tokens = Port("tokens", (1, 4), "int64", (0, 1))
    stored = tokens.encode(np.float32([[1, 2, 3, 4]]))
    assert stored.dtype == np.int64 and tokens.decode(stored).tolist() == [[1, 2, 3, 4]]


def test_a_whole_sample_by_name() -> None:
    fed = CONTRACT.encode({"image": image(), "other": image()})
    assert list(fed) == ["image"]
    real = CONTRACT.decode({"scores": np.arange(6, dtype=np.int8).reshape(1, 6)})
    np.testing.assert_allclose(real["scores"], (np.arange(6) - 3)[None] * 0.25)
    assert real["scores"].dtype == np.float32


def test_a_wrong_shape_and_a_missing_input_are_said() -> None:
    with pytest.raises(DataError, match=r"input image: shape \[1, 4, 5, 3\] was given, \[1, 3, 4, 5\] is needed"):
        IMAGE.encode(image().transpose(NHWC))
    with pytest.raises(DataError, match="no value for input image; given: picture"):
        CONTRACT.encode({"picture": image()})
    with pytest.raises(DataError, match="no value for input image; given: nothing"):
        CONTRACT.encode({})


def test_json_gives_an_equal_contract() -> None:
    back = Contract.from_json(json.loads(json.dumps(CONTRACT.to_json())))
    assert back == CONTRACT and CONTRACT.differences(back) == []
    np.testing.assert_array_equal(back.encode({"image": image()})["image"], IMAGE.encode(image()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": (replace(IMAGE, scale=0.06),)}, "image.scale: 0.05 became 0.06"),
        ({"inputs": (replace(IMAGE, zero_point=0),)}, "image.zero_point: -7 became 0"),
        ({"outputs": (replace(SCORES, dtype="float32"),)}, "scores.dtype: int8 became float32"),
        ({"outputs": (replace(SCORES, name="logits"),)}, "outputs: ['scores'] became ['logits']"),
        ({"outputs": (SCORES, IMAGE)}, "outputs: ['scores'] became ['scores', 'image']"),
        ({"preprocessing": {}}, "preprocessing changed"),
        ({"labels": ("dog", "cat")}, "labels changed"),
    ],
)
def test_what_a_user_would_notice_is_a_difference(change: dict[str, object], said: str) -> None:
    assert CONTRACT.differences(replace(CONTRACT, **change)) == [said]  # type: ignore[arg-type]


def test_another_layout_is_a_difference_of_shape_and_order() -> None:
    found = CONTRACT.differences(replace(CONTRACT, inputs=(SAME,)))
    assert [line.split(":")[0] for line in found] == ["image.shape", "image.perm"]
