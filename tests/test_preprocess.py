"""Preprocessing against torchvision's rules written out in numpy, its JSON, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import DataError
from edgekit.inputs import InputConfig
from edgekit.preprocess import Preprocess, config_from_json, image_layout

RGB = (1, 3, 4, 6)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(height: int = 4, width: int = 6, channels: int = 3) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def made(raw: NDArray[Any], shape: tuple[int, ...] = RGB, **declared: Any) -> NDArray[Any]:
    return Preprocess.of("x", shape, InputConfig(**declared))(raw, "sample 0")


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((1, 3, 8, 8), "NCHW"), ((1, 8, 8, 3), "NHWC"), ((1, 1, 28, 28), "NCHW"), ((1, 7, 8, 9), None), ((1, 10), None)],
)
def test_the_layout_is_told_from_the_channel_count(shape: tuple[int, ...], layout: str | None) -> None:
    assert image_layout(shape) == layout


def test_uint8_images_become_zero_to_one_by_default() -> None:
    image = picture()
    got = made(image)
    assert got.dtype == np.float32
    assert got.shape == RGB
    np.testing.assert_array_equal(got[0], (image.astype(np.float32) * np.float32(1 / 255)).transpose(2, 0, 1))


def test_mean_and_std_are_of_values_from_zero_to_one() -> None:
    image = picture()
    wanted = (image / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(made(image, mean=MEAN, std=STD)[0], wanted.transpose(2, 0, 1), atol=1e-6)


def test_bgr_turns_channels_before_mean_and_std() -> None:
    image = picture()
    wanted = (image[:, :, ::-1] / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(made(image, mean=MEAN, std=STD, channels="BGR")[0], wanted.transpose(2, 0, 1), atol=1e-6)


def test_one_mean_serves_every_channel() -> None:
    np.testing.assert_allclose(
        made(picture(), mean=(0.5,), std=(0.5,))[0, 0], picture()[:, :, 0] / 127.5 - 1, atol=1e-6
    )


def test_every_accepted_layout_gives_the_same() -> None:
    image = picture()
    wanted = made(image)
    for raw in (image.transpose(2, 0, 1), image.transpose(2, 0, 1)[None], image[None]):
        np.testing.assert_array_equal(made(raw), wanted)
    np.testing.assert_array_equal(made(image, (1, 4, 6, 3)), wanted.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(made(image.transpose(2, 0, 1), (1, 4, 6, 3)), wanted.transpose(0, 2, 3, 1))


def test_grey_images_need_no_channel_axis() -> None:
    grey = picture(channels=1)[:, :, 0]
    np.testing.assert_array_equal(made(grey, (1, 1, 4, 6))[0, 0], grey.astype(np.float32) * np.float32(1 / 255))


def test_float_values_are_left_alone_by_default_and_scaled_when_declared() -> None:
    real = picture().astype(np.float32)
    np.testing.assert_array_equal(made(real)[0], real.transpose(2, 0, 1))
    np.testing.assert_array_equal(made(real, scale=0.5)[0], real.transpose(2, 0, 1) / 2)


def test_what_is_no_image_is_only_normalised() -> None:
    value = np.arange(10, dtype=np.uint8)
    np.testing.assert_array_equal(made(value, (1, 10))[0], value)
    np.testing.assert_array_equal(made(value, (1, 10), scale=2.0, mean=(1.0,))[0], value * 2.0 - 1)
    np.testing.assert_array_equal(made(np.ones((50, 40)), (50, 40)), np.ones((50, 40)))


def test_resize_and_crop_are_torchvisions() -> None:
    image = picture(48, 64)
    wanted = np.asarray(Image.fromarray(image).resize((42, 32), Image.Resampling.BILINEAR))  # shorter side 32, long cut
    top, left = round((32 - 28) / 2), round((42 - 28) / 2)
    got = made(image, (1, 3, 28, 28), resize=(32,), crop=(28,))
    np.testing.assert_allclose(got[0], (wanted[top : top + 28, left : left + 28] / 255).transpose(2, 0, 1), atol=1e-6)


def test_resize_to_the_input_stretches() -> None:
    image = picture(48, 64)
    wanted = np.asarray(Image.fromarray(image).resize((28, 20), Image.Resampling.BICUBIC))
    got = made(image, (1, 3, 20, 28), resize="input", interpolation="bicubic")
    np.testing.assert_allclose(got[0], (wanted / 255).transpose(2, 0, 1), atol=1e-6)


def test_floats_are_resized_unrounded() -> None:
    got = made(picture(8, 8).astype(np.float32) / 1000, (1, 3, 4, 4), resize="input")
    assert len(np.unique(got)) > 40


@pytest.mark.parametrize(
    ("shape", "declared"),
    [
        (RGB, {"mean": MEAN, "std": STD}),
        (RGB, {"scale": 0.5, "channels": "BGR", "resize": (6,), "crop": (4, 6)}),
        ((1, 4, 6, 3), {"resize": "input", "interpolation": "nearest"}),
        ((1, 18), {"scale": 3.0}),
    ],
)
def test_json_reads_back_to_the_same_preprocessing(shape: tuple[int, ...], declared: dict[str, Any]) -> None:
    image = picture(8, 9) if "resize" in declared else picture() if len(shape) == 4 else np.ones(18, np.uint8)
    before = Preprocess.of("x", shape, InputConfig(**declared))
    after = Preprocess.of("x", shape, config_from_json(json.loads(json.dumps(before.to_json()))))
    for raw in (image, image.astype(np.float32)):
        np.testing.assert_array_equal(before(raw, ""), after(raw, ""))
    assert after.to_json() == before.to_json()


@pytest.mark.parametrize(
    ("raw", "shape", "declared", "said"),
    [
        (picture(5, 5), RGB, {}, r"the image is 5x5, 4x6 is needed; declare resize and crop in \[model.inputs.x\]"),
        (picture(9, 9), RGB, {"resize": (5,)}, "the image is 9x9, 5x5 after resize and crop, 4x6 is needed"),
        (picture(), RGB, {"crop": (9,)}, "crop 9x9 is larger than the image, 4x6"),
        (
            picture(channels=2),
            RGB,
            {},
            r"shape \[4, 6, 2\] was found, \[4, 6, 3\] or \[3, 4, 6\] is needed for one sample",
        ),
        (picture(channels=2), RGB, {"resize": (9,)}, r"\[height, width, 3\] or \[3, height, width\] is needed"),
        (picture()[:, :, 0], RGB, {}, r"shape \[4, 6\] was found"),
        (np.zeros(9), (1, 10), {}, r"sample 0: input x: shape \[9\] was found, \[10\] is needed for one sample"),
        (np.zeros((32, 10)), (1, 10), {}, r"shape \[32, 10\] was found, \[10\] is needed"),
        (np.array([1, np.nan]), (1, 2), {}, r"sample 0: input x: holds NaN \(1 of 2\)"),
        (np.array([1, -np.inf]), (1, 2), {}, r"holds infinite values \(1 of 2\)"),
        (np.array(["a", "b"]), (1, 2), {}, "holds <U1 values, real numbers are needed"),
        (np.array([1j, 2]), (1, 2), {}, "holds complex128 values, real numbers are needed"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    raw: NDArray[Any], shape: tuple[int, ...], declared: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        made(raw, shape, **declared)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "declared", "said"),
    [
        ((1, 10), {"resize": (3,)}, r"input x: resize, crop and channels are for images; its shape is \[1, 10\]"),
        (RGB, {"mean": (1.0, 2.0)}, "input x: mean has 2 values, the input has 3 channels"),
        ((1, 1, 4, 4), {"channels": "BGR"}, "input x: channels BGR was declared, the input has 1"),
    ],
)
def test_a_declaration_that_does_not_fit_the_input(shape: tuple[int, ...], declared: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Preprocess.of("x", shape, InputConfig(**declared))
