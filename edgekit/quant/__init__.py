"""Quantization: the plan, its numerics, ranges, calibration and the rules that turn ranges into a plan."""
