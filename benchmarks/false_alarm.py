"""How often a file would be called slower than itself: comparisons of an artifact with its own copy.

    python benchmarks/false_alarm.py [--count N] [--at-most RATIO]

Each comparison is what ``edgekit bench A --against B --at-most RATIO`` does, with less time for each. A gate that fails
here cries wolf. Run it while other work runs on the machine: on a quiet one it is no test.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter

import numpy as np
import shared
from shared import NETWORKS, TFLITE

from edgekit.measure import compare

NETWORK = NETWORKS["cifar10_resnet20"]
MOST_FAILED = 0.01


def main() -> None:
    """Compare, and count verdicts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--at-most", type=float, default=1.02)
    given = parser.parse_args()
    shared.chosen((), (NETWORK.name,))
    with shared.workplace() as folder:
        artifact = shared.built(NETWORK, (TFLITE,), folder)[TFLITE]
        copy = folder / "copy.tflite"
        copy.write_bytes(artifact.read_bytes())
        found = [compare(artifact, copy, runs=20, seconds=0.1) for _ in range(given.count)]
    verdicts = Counter(one.verdict(given.at_most) for one in found)
    ratios = np.array([one.ratio for one in found])
    covered = float(np.mean([one.low <= 1.0 <= one.high for one in found]))
    failed = verdicts["fail"] / given.count
    rows = [(word, str(verdicts[word])) for word in ("pass", "fail", "inconclusive")]
    shared.table(f"{given.count} comparisons of a file with its copy, at most {given.at_most}x", ("verdict", ""), rows)
    result = {
        "count": given.count,
        "at_most": given.at_most,
        "verdicts": dict(verdicts),
        "ratio_quantiles": np.quantile(ratios, [0.01, 0.5, 0.99]).tolist(),
        "intervals_that_hold_1": covered,
        "load_average": os.getloadavg()[0],
        "floors": [shared.at_most("share that fails", failed, MOST_FAILED)],
    }
    shared.finish("false_alarm", {NETWORK.name: result})


if __name__ == "__main__":
    main()
