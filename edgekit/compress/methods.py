"""Every method of ``[[compress]]``: importing this declares them."""

from edgekit.compress import (  # noqa: F401 - they declare their methods
    channel_prune,
    cluster,
    distill,
    low_rank,
    magnitude,
    qat,
)
from edgekit.compress.steps import METHODS, Context, Outcome, Step, read_step

__all__ = ["METHODS", "Context", "Outcome", "Step", "read_step"]
