"""The forms of a recurrent network, full int8 in TFLite: bytes, signal-to-noise, and latency against the fastest peer.

    python benchmarks/recurrent.py [NETWORK ...]

Each form is timed in turns (``edgekit.measure.compare``) against every other tool's file of the network; what counts is
the one that it has the highest ratio to. 32 inputs judge the signal-to-noise of the outputs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import shared
from attention import judged
from latency import SECONDS
from latency import facts as timing
from shared import ONNX, TFLITE, Network

from edgekit.errors import EdgekitError
from edgekit.measure import compare

DEFAULT = ("gru", "lstm")
FORMS = {"gru": ("loop", "unrolled"), "lstm": ("loop", "unrolled", "fused")}
LEAST_DB = {"gru": 36.0, "lstm": 28.0}
SMALLEST = {"gru": 0.6, "lstm": 0.45}  # of the float ONNX's bytes, what the small form may weigh
FAST_SHARE = 0.5  # of the smallest peer's bytes, what the fast form may weigh
LIMIT = 1.0


def main() -> None:
    """Measure each network and print one table of all."""
    results: dict[str, Any] = {}
    with shared.workplace() as folder:
        for network in shared.chosen(sys.argv[1:], DEFAULT):
            found = measured(network, folder)
            results[network.name] = found | {"floors": floors(network.name, found)}
            shared.save("recurrent", {network.name: results[network.name]})
    columns = ("network", "form", "bytes", "of float ONNX", "SNR dB", "ms", "against", "ratio", "interval")
    shared.table("Recurrent networks, one thread", columns, [row for item in results.items() for row in rows_of(*item)])
    shared.finish("recurrent", results)


def measured(network: Network, folder: Path) -> dict[str, Any]:
    """Every form's size, accuracy and latency; beside them the float ONNX and the smallest peer."""
    files: dict[str, Path] = {}
    for form in FORMS[network.name]:
        (path,) = shared.built(network, (TFLITE,), folder, {"recurrent": form}).values()
        files[form] = path.rename(folder / f"{network.name}.{form}.tflite")
    (whole,) = shared.built(network, (ONNX,), folder, {"precision": "float32"}).values()
    kept = judged(network, folder, files)
    forms = {
        form: {"bytes": path.stat().st_size, **kept[form], **against_peers(network, path)}
        for form, path in files.items()
    }
    smallest = min((path.stat().st_size for path in network.peers), default=0)
    return {"forms": forms, "float_onnx_bytes": whole.stat().st_size, "smallest_peer_bytes": smallest}


def against_peers(network: Network, path: Path) -> dict[str, Any]:
    """The comparison with the peer that the file has the highest ratio to: the fastest."""
    found: dict[str, Any] = {}
    for peer in network.peers:
        try:
            one = timing(compare(path, peer, seconds=SECONDS)) | {"against": peer.name.split(".")[1]}
        except EdgekitError:
            continue  # it does not load
        found = max(found, one, key=lambda item: float(item.get("ratio", 0.0)))
    return found


def floors(name: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The small form is small, the fast one fast and not large, and both keep the signal."""
    forms, share = result["forms"], result["float_onnx_bytes"]
    small, fast = forms["loop"], forms["unrolled"]
    found = [shared.at_most("loop, share of the float ONNX's bytes", small["bytes"] / share, SMALLEST[name])]
    found += [shared.at_least(f"{form}, SNR dB", item["snr_db"], LEAST_DB[name]) for form, item in forms.items()]
    if "ratio" in fast:
        found.append(shared.at_most(f"unrolled over {fast['against']}", fast["ratio"], LIMIT))
        peer = result["smallest_peer_bytes"]
        found.append(shared.at_most("unrolled, share of the smallest peer's bytes", fast["bytes"] / peer, FAST_SHARE))
    return found


def rows_of(network: str, result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The table rows of one network."""
    for form, item in result["forms"].items():
        share = f"{item['bytes'] / result['float_onnx_bytes']:.2f}"
        timed = ("", "", "", "")
        if "ratio" in item:
            interval = f"{item['low']:.3f} to {item['high']:.3f}"
            timed = (f"{item['ours']['p50_ms']:.3g}", item["against"], f"{item['ratio']:.3f}", interval)
        yield f"`{network}`", f"`{form}`", f"{item['bytes']:,}", share, f"{item['snr_db']:.1f}", *timed


if __name__ == "__main__":
    main()
