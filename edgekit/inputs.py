"""What is declared of one model input: shape, layout and preprocessing. Values only; ``preprocess`` acts on them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from edgekit.toml_table import Table

LAYOUTS = ("NCHW", "NHWC")
CHANNELS = ("RGB", "BGR", "GRAY")
INTERPOLATIONS = ("bilinear", "nearest", "bicubic")
INPUT = "input"  # as a size: the model input's own height and width

Size = tuple[int, ...] | str


@dataclass(frozen=True)
class InputConfig:
    """How raw data becomes what one input of the source model wants; None means: found out or left alone.

    ``shape`` and ``layout`` are the source model's; ``artifact_layout`` overrides the target's. Images are resized
    (shorter side, (height, width), or ``"input"``), cropped about the centre, multiplied by ``scale`` (default 1/255
    for uint8, else 1), then ``mean`` is taken off and ``std`` divides, per channel in the order of ``channels``.
    """

    shape: tuple[int, ...] | None = None
    layout: str | None = None
    artifact_layout: str | None = None
    channels: str | None = None
    resize: Size | None = None
    crop: Size | None = None
    interpolation: str | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def over(self, base: InputConfig) -> InputConfig:
        """This, with what it leaves open taken from ``base``."""
        return replace(base, **{f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None})


def read_input(table: Table, shape: bool = True) -> InputConfig:
    """One ``[model.inputs.NAME]``, or a recipe's ``[preprocessing]`` (no shape). Raises ConfigError."""
    config = InputConfig(
        shape=table.integers("shape") if shape else None,
        layout=table.choice("layout", LAYOUTS),
        artifact_layout=table.choice("artifact_layout", LAYOUTS) if shape else None,
        channels=table.choice("channels", CHANNELS),
        resize=_size(table, "resize"),
        crop=_size(table, "crop"),
        interpolation=table.choice("interpolation", INTERPOLATIONS),
        scale=table.number("scale"),
        mean=table.numbers("mean"),
        std=table.numbers("std"),
    )
    table.close()
    if config.scale == 0:
        raise table.error("scale", "0 was given, a number above 0 is needed")
    if config.std is not None and min(config.std) <= 0:
        raise table.error("std", f"{list(config.std)} was given, numbers above 0 are needed")
    if config.mean and config.std and len(config.mean) != len(config.std):
        raise table.error("std", f"{len(config.std)} values were given, mean has {len(config.mean)}")
    return config


def _size(table: Table, key: str) -> Size | None:
    """A size: one whole number, [height, width], or "input"."""
    value = table.data.get(key)
    if value == INPUT:
        return table.text(key)
    if isinstance(value, list):
        pair = table.integers(key)
        if pair is not None and len(pair) != 2:
            raise table.error(key, f"{value!r} was given, a whole number, [height, width] or {INPUT!r} is needed")
        return pair
    side = table.integer(key, least=1)
    return None if side is None else (side,)
