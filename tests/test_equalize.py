"""Equalizing: the function stays, channels come closer, and what cannot be scaled is left as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from small_onnx import Draft

from edgekit.graph import Array, shape_of
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.quant.equalize import STEPS, WIDEST, Channels, factors, scaled
from edgekit.reference import Reference
from edgekit.samples import Sample
