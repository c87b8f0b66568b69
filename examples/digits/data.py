"""Handwritten digits: 1,797 real scans, 8x8 pixels, that come with scikit-learn. A third of them is held out.

Each function gives (image, label): uint8 (8, 8) and 0 to 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Array = NDArray[Any]
HELD_OUT = 599


@cache
def split() -> tuple[Array, Array, Array, Array]:
    """Training images, held-out images, training labels, held-out labels; every digit in both, always the same."""
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    parts = train_test_split(images, digits.target, test_size=HELD_OUT, random_state=0, stratify=digits.target)
    return parts[0], parts[1], parts[2], parts[3]


def calibration() -> Iterator[tuple[Array, int]]:
    """The images that the network was trained on."""
    images, _, labels, _ = split()
    return zip(images, labels.tolist(), strict=True)


def evaluation() -> Iterator[tuple[Array, int]]:
    """The held-out images."""
    _, images, _, labels = split()
    return zip(images, labels.tolist(), strict=True)
