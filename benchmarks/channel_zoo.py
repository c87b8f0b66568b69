"""Remove half of every layer's channels in each architecture of the zoo: what is left against the whole, masked.

    python benchmarks/channel_zoo.py [NAME ...]

The masked network computes every channel and zeroes those that were removed, so both have to say the same. What is cut
also has to go through the passes before calibration. Two architectures have nothing to cut: ConvNeXt V2 and gMLP, of
which every inner channel is normalised over, or multiplied with one that is.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import shared
import torch
import zoo_models

from edgekit.compress.channel_cut import Cut, without
from edgekit.compress.channel_prune import Masked
from edgekit.compress.channels import Channels
from edgekit.errors import EdgekitError
from edgekit.frontends import load_source
from edgekit.passes import opened, prepare
from edgekit.reference import Reference

SOUND_DB = 60.0
SAMPLES = 2


def main() -> None:
    """Examine each architecture and end with 1 when one is unsound."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name in sys.argv[1:] or zoo_models.ZOO:
        started = time.perf_counter()
        try:
            found = examined(name)
        except EdgekitError as error:
            found = {"refused": str(error).splitlines()[0]}
        results[name] = found
        print(f"{name}: {found} ({time.perf_counter() - started:.1f} s)", flush=True)
    cut = [found for found in results.values() if "snr_db" in found]
    worst = min((found["snr_db"] for found in cut), default=0.0)
    floors = [shared.at_least(f"dB between cut and masked, the worst of {len(cut)} architectures", worst, SOUND_DB)]
    shared.finish("channel_zoo", {"zoo": {"architectures": results, "floors": floors}})


def examined(name: str) -> dict[str, Any]:
    """How many layers can be cut, the share of MACs and parameters left, and how well cut and masked agree."""
    entry = zoo_models.ZOO[name]
    shapes = {key: tuple(item.shape) for key, item in entry.inputs.items()}
    model = opened(load_source(f"zoo_models:{name}", None, shapes, Path(__file__).parent).model)
    bare(model.graph)
    channels = Channels(model)
    if not channels.layers:
        return {"layers": 0}
    removed, masked = halves(channels), Masked(channels)
    masked.remove(removed)
    before, after = Cut(channels, ()), Cut(channels, removed)
    reference = Reference(prepare(without(channels, removed)))
    signal = noise = 0.0
    for sample in entry.samples(SAMPLES, 1):
        inputs = [torch.from_numpy(sample[str(value.name)]) for value in channels.graph.inputs]
        wanted = masked.outputs(inputs).numpy().reshape(-1).astype(np.float64)
        values = reference.run(sample)
        found = np.concatenate([values[key].reshape(-1) for key in reference.outputs])
        signal += float((wanted**2).sum())
        noise += float(((wanted - found) ** 2).sum())
    return {
        "layers": len(channels.layers),
        **{key: round(after.cost(key) / max(1, before.cost(key)), 3) for key in ("macs", "parameters")},
        "snr_db": round(float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30))), 1),
    }


def bare(graph: ir.Graph) -> None:
    """Let the outputs be what the last Relu reads: of random weights, halved, it may leave nothing but zeros."""
    for i, value in enumerate(graph.outputs):
        while (node := value.producer()) is not None and node.op_type in ("Relu", "Squeeze"):
            value = node.inputs[0]
        graph.outputs[i] = value


def halves(channels: Channels) -> list[int]:
    """Half of every layer, drawn."""
    random = np.random.default_rng(0)
    drawn = [random.choice(layer.classes, len(layer.classes) // 2, replace=False) for layer in channels.layers]
    return [int(one) for one in np.concatenate(drawn)]


if __name__ == "__main__":
    main()
