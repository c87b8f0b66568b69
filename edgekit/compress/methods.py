"""Every method of ``[[compress]]``: importing this declares them."""

from edgekit.compress import channel_prune, distill, qat  # noqa: F401 - they declare their methods
from edgekit.compress.steps import METHODS, Context, Outcome, Step, read_step

__all__ = ["METHODS", "Context", "Outcome", "Step", "read_step"]
