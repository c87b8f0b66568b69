"""Every method of ``[[compress]]``: importing this declares them."""

from edgekit.compress.steps import METHODS, Context, Outcome, read_step, run_step

__all__ = ["METHODS", "Context", "Outcome", "read_step", "run_step"]
