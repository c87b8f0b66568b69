"""Every method of ``[[compress]]``: importing this declares them."""

from edgekit.compress import channel_prune  # noqa: F401 - it declares its method
from edgekit.compress.steps import METHODS, Context, Outcome, Step, read_step

__all__ = ["METHODS", "Context", "Outcome", "Step", "read_step"]
