"""Raw values -> what one input of the source model wants. Declared once, used for calibration, evaluation and verify.

An image is resized, cropped about its centre, put into the model's channel order, scaled, normalised (mean and std are
of values in [0, 1]) and laid out as the model wants. Anything else is only scaled and normalised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError
from edgekit.inputs import INPUT, InputConfig, Size

Array = NDArray[Any]


def image_layout(shape: Sequence[int]) -> str | None:
    """``NCHW`` or ``NHWC`` for the shape of images, else None: an axis of 1 or 3, or failing that 4, is channels."""
    if len(shape) == 4:
        for counts in ((1, 3), (4,)):
            if shape[1] in counts:
                return "NCHW"
            if shape[3] in counts:
                return "NHWC"
    return None


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of one input. ``shape`` is the source model's, with a batch axis of 1 if it has one."""

    name: str
    shape: tuple[int, ...]
    config: InputConfig

    @classmethod
    def of(cls, name: str, shape: Sequence[int], config: InputConfig) -> Preprocess:
        """The preprocessing that ``config`` declares for an input of that shape. Raises DataError if they disagree."""
        layout = config.layout if len(shape) == 4 and config.layout else image_layout(shape)
        if layout is None and (config.resize or config.crop or config.channels):
            raise DataError(f"input {name}: resize, crop and channels are for images; its shape is {list(shape)}")
        count = 1 if layout is None else shape[layout.index("C")]
        for key in ("mean", "std"):
            values = getattr(config, key)
            if values and len(values) not in (1, count) and layout is not None:
                raise DataError(f"input {name}: {key} has {len(values)} values, the input has {count} channels")
        if config.channels in ("RGB", "BGR") and count != 3:
            raise DataError(f"input {name}: channels {config.channels} was declared, the input has {count}")
        return cls(name, tuple(shape), replace(config, shape=tuple(shape), layout=layout))

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape without a batch axis."""
        return self.shape[1:] if len(self.shape) > 1 and self.shape[0] == 1 else self.shape

    @property
    def mode(self) -> str:
        """Pillow's mode in which image files are opened: ``L``, ``RGB`` or ``RGBA``."""
        return {1: "L", 4: "RGBA"}.get(self.channel_count, "RGB")

    @property
    def channel_count(self) -> int:
        """How many channels the image has; 1 when it is no image."""
        return 1 if self.config.layout is None else self.shape[self.config.layout.index("C")]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image that the model wants."""
        layout = self.config.layout or ""
        return self.shape[layout.index("H")], self.shape[layout.index("W")]

    def __call__(self, raw: Array, where: str) -> Array:
        """One raw sample -> float32 of ``shape``. ``where`` names the sample in a DataError."""
        _check_values(raw, f"{where}: input {self.name}")
        if self.config.layout and self.shape[0] > 1:
            return self._batch(raw, where)
        if raw.shape == self.shape:
            raw = raw.reshape(self.sample_shape)
        real = self._laid_out(raw, where) if self.config.layout else self._plain(raw, where)
        return np.ascontiguousarray(real.reshape(self.shape), dtype=np.float32)

    def _batch(self, raw: Array, where: str) -> Array:
        """A sample of a model with a fixed batch: as many images, each prepared by itself."""
        if raw.ndim != 4 or len(raw) != self.shape[0]:
            raise self._wrong_shape(raw, where, [list(self.shape)])
        shape = (1, *self.shape[1:])
        one = replace(self, shape=shape, config=replace(self.config, shape=shape))
        return np.concatenate([one(image, where) for image in raw])

    def to_json(self) -> dict[str, Any]:
        """What is declared, as a JSON object for the artifact's metadata; ``config_from_json`` reads it back.

        ``scale`` is stated for both kinds of raw value, so that a device needs no rule of ours.
        """
        image = self.config.layout is not None
        declared = {
            "layout": self.config.layout,
            "channels": self.config.channels or ("RGB" if image and self.channel_count == 3 else None),
            "resize": self.config.resize,
            "crop": self.config.crop,
            "interpolation": (self.config.interpolation or "bilinear") if self.config.resize else None,
            "scale": {"uint8": self.scale(np.dtype(np.uint8)), "float32": self.scale(np.dtype(np.float32))},
            "mean": self.config.mean,
            "std": self.config.std,
        }
        kept = {key: value for key, value in declared.items() if value is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}

    def scale(self, dtype: np.dtype[Any]) -> float:
        """The factor for raw values of that type."""
        if self.config.scale is not None:
            return self.config.scale
        return 1 / 255 if dtype == np.uint8 and self.config.layout else 1.0

    def _plain(self, raw: Array, where: str) -> Array:
        if raw.shape != self.sample_shape:
            raise self._wrong_shape(raw, where, [list(self.sample_shape)])
        return self._normalised(raw)

    def _laid_out(self, raw: Array, where: str) -> Array:
        """An image of any accepted layout -> the model's."""
        source = self.config.layout == "NCHW"
        if raw.shape != self.sample_shape or self.config.resize or self.config.crop:
            image = self._fitted(self._channels_last(raw, where), where)
        else:
            image = raw.transpose(1, 2, 0) if source else raw
        if self.config.channels == "BGR":
            image = image[:, :, ::-1]
        real = self._normalised(image)
        return real.transpose(2, 0, 1) if source else real

    def _normalised(self, value: Array) -> Array:
        """Scale, mean and std, per channel along the last axis."""
        real: Array = value.astype(np.float32) * np.float32(self.scale(value.dtype))
        if self.config.mean:
            real = real - np.asarray(self.config.mean, np.float32)
        if self.config.std:
            real = real / np.asarray(self.config.std, np.float32)
        return np.asarray(real, np.float32)

    def _channels_last(self, raw: Array, where: str) -> Array:
        """(height, width, channels), from that, from channels first, or from (height, width)."""
        count = self.channel_count
        if raw.ndim == 4 and raw.shape[0] == 1:
            raw = raw[0]
        if raw.ndim == 2 and count == 1:
            return raw[:, :, None]
        if raw.ndim == 3 and raw.shape[2] == count:
            return raw
        if raw.ndim == 3 and raw.shape[0] == count:
            return raw.transpose(1, 2, 0)
        height, width = self.size if not self.config.resize and not self.config.crop else ("height", "width")
        accepted = [[height, width, count], [count, height, width]] + [[height, width]] * (count == 1)
        raise self._wrong_shape(raw, where, accepted)

    def _fitted(self, image: Array, where: str) -> Array:
        """Resize and crop as declared. Raises DataError when the result is not of the model's size."""
        height, width = image.shape[:2]
        if self.config.resize:
            image = resize(image, self._scaled_size(height, width), self.config.interpolation or "bilinear")
        if self.config.crop:
            image = self._cropped(image, where)
        if image.shape[:2] != self.size:
            done = (
                f", {image.shape[0]}x{image.shape[1]} after resize and crop"
                if self.config.resize or self.config.crop
                else ""
            )
            raise DataError(
                f"{where}: input {self.name}: the image is {height}x{width}{done}, "
                f"{self.size[0]}x{self.size[1]} is needed; "
                f'declare resize and crop in [model.inputs.{self.name}], such as resize = "{INPUT}"'
            )
        return image

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        wanted = self._size(self.config.resize or INPUT)
        if len(wanted) == 2:
            return wanted[0], wanted[1]
        side = wanted[0]
        if height <= width:
            return side, max(side, int(side * width / height))
        return max(side, int(side * height / width)), side

    def _cropped(self, image: Array, where: str) -> Array:
        wanted = self._size(self.config.crop or INPUT)
        height, width = wanted[0], wanted[-1]
        top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
        if top < 0 or left < 0:
            found = f"{image.shape[0]}x{image.shape[1]}"
            raise DataError(f"{where}: input {self.name}: crop {height}x{width} is larger than the image, {found}")
        return image[top : top + height, left : left + width]

    def _size(self, size: Size) -> tuple[int, ...]:
        return self.size if isinstance(size, str) else size

    def _wrong_shape(self, raw: Array, where: str, accepted: Sequence[Sequence[Any]]) -> DataError:
        shapes = " or ".join("[" + ", ".join(map(str, shape)) + "]" for shape in accepted)
        return DataError(
            f"{where}: input {self.name}: shape {list(raw.shape)} was found, {shapes} is needed for one sample"
        )


def config_from_json(value: Mapping[str, Any]) -> InputConfig:
    """The InputConfig that ``Preprocess.to_json`` wrote."""
    scales = dict(value.get("scale", {}))
    same = scales.get("uint8") if scales.get("uint8") == scales.get("float32") else None

    def many(key: str) -> Any:
        item = value.get(key)
        return tuple(item) if isinstance(item, list) else item

    return InputConfig(
        layout=value.get("layout"),
        channels=value.get("channels"),
        resize=many("resize"),
        crop=many("crop"),
        interpolation=value.get("interpolation"),
        scale=same,
        mean=many("mean"),
        std=many("std"),
    )


def resize(image: Array, size: tuple[int, int], interpolation: str) -> Array:
    """(height, width, channels) -> ``size`` (height, width), by Pillow, so with antialiasing; the type is kept."""
    from PIL import Image

    if image.shape[:2] == size:
        return image
    method = Image.Resampling[interpolation.upper()]
    planes = [np.ascontiguousarray(image[:, :, i]) for i in range(image.shape[2])]
    if image.dtype != np.uint8:
        planes = [plane.astype(np.float32) for plane in planes]
    scaled = [np.asarray(Image.fromarray(plane).resize((size[1], size[0]), method)) for plane in planes]
    return np.stack(scaled, axis=2)


def _check_values(raw: Array, where: str) -> None:
    """Raises DataError on values that are not real numbers, or not finite."""
    if raw.dtype.kind not in "fiub":
        raise DataError(f"{where}: holds {raw.dtype} values, real numbers are needed")
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        bad = raw[~np.isfinite(raw)].flat[0]
        what = "NaN" if np.isnan(bad) else "infinite values"
        raise DataError(f"{where}: holds {what} ({int((~np.isfinite(raw)).sum())} of {raw.size})")
