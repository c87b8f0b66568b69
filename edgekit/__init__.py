"""edgekit: trained network in, smallest and fastest artifact that passes its gates out, with proof."""

__version__ = "0.1.0"
