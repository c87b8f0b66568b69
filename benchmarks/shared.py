"""What the benchmarks have in common: the networks and data of ``../shared``, builds of them, and results as JSON.

``../shared`` is no part of edgekit: a benchmark that does not find it says so and ends well.
"""

from __future__ import annotations

import importlib
import io
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from edgekit.agent import machine
from edgekit.build import build
from edgekit.errors import EdgekitError
from edgekit.project import Project, parse_project

Array = NDArray[Any]

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
MODELS, DATA, PEERS = SHARED / "models", SHARED / "data", SHARED / "peers" / "int8"
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "onnx", "onnxruntime", "ai-edge-litert", "torch")

TFLITE, ONNX, ONNX_INT8 = "linux-x86_64-litert", "linux-x86_64-onnxruntime", "raspberry-pi-4-onnxruntime"
CIFAR = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
JUDGED = 32  # inputs that judge a network with random weights
DRAWN = 128  # inputs that calibrate it

console = Console(width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True)
class Network:
    """One network: how its input is prepared, and what calibrates and judges it (data as edgekit takes it).

    ``calibration`` None stands for ``definitions.inputs``, of networks with random weights; those have no labels.
    """

    name: str
    shape: tuple[int, ...]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    calibration: str | None = None
    evaluation: str | None = None
    source: str = ""
    input: str = "x"
    outputs: tuple[str, ...] = ()

    @property
    def peers(self) -> list[Path]:
        """The artifacts that other tools made of it."""
        return sorted(PEERS.glob(f"{self.name}.*.tflite"))

    def project(self, folder: Path, samples: int = 256, quantization: Mapping[str, Any] | None = None) -> Project:
        """The project that builds it; ``folder`` is a place for drawn inputs."""
        document: dict[str, Any] = {
            "model": {
                "source": self.source or f"definitions:{self.name}",
                "inputs": {self.input: {"shape": [1, *self.shape], **self.preprocessing}},
            },
            "calibration": {"data": self.calibration or str(_drawn(self.name, folder)), "samples": samples},
            "quantization": dict(quantization or {}),
        }
        if self.outputs:
            document["model"]["outputs"] = list(self.outputs)
        return parse_project(document, MODELS, f"benchmarks ({self.name})")


def _drawn(name: str, folder: Path) -> Path:
    """The inputs that calibrate a network with random weights, as a file."""
    path = folder / f"{name}.npy"
    if not path.exists():
        np.save(path, definitions().inputs(name, DRAWN, 1))
    return path


def definitions() -> Any:
    """The module of ``../shared/models``."""
    if str(MODELS) not in sys.path:
        sys.path.append(str(MODELS))
    return importlib.import_module("definitions")


def _networks() -> dict[str, Network]:
    calibration, test = str(DATA / "cifar10_calib.npz"), str(DATA / "cifar10_test.npz")
    fashion = str(DATA / "fashion_mnist.npz")
    half = {"mean": [0.5], "std": [0.5]}
    found = [
        Network("cifar10_resnet20", (3, 32, 32), CIFAR, calibration, test),
        Network("cifar10_resnet56", (3, 32, 32), CIFAR, calibration, test),
        Network("cifar10_mobilenet_v3", (3, 32, 32), CIFAR, calibration, test),
        Network(
            "imagenet_mobilenet_v1_075",
            (3, 224, 224),
            half,
            "shared:imagenet_calibration",
            "shared:imagenet_evaluation",
        ),
        Network(
            "fashion_mnist_vit", (1, 28, 28), {"mean": [0.286], "std": [0.353]}, f"{fashion}:train", f"{fashion}:test"
        ),
        Network(
            "coco_fastestdet",
            (3, 352, 352),
            {"channels": "BGR", "resize": "input"},
            "shared:coco_calibration",
            "shared:coco_evaluation",
            source="coco_fastestdet.onnx",
            input="input.1",
        ),
        Network("resnet20", (3, 32, 32)),
        Network("mobilenet_v2", (3, 224, 224)),
        Network("ds_cnn", (1, 49, 10)),
        Network("unet", (3, 128, 128)),
        Network("vit", (3, 224, 224)),
        Network("gru", (50, 40)),
        Network("lstm", (50, 40)),
    ]
    return {network.name: network for network in found}


NETWORKS = _networks()


class Images:
    """JPEG images of one blob, decoded one at a time: (uint8 height x width x RGB, label)."""

    def __init__(self, file: str, picks: Sequence[int]) -> None:
        with np.load(DATA / file) as data:
            self.blob, self.offsets = data["jpeg"], data["offsets"]
            self.labels = data["labels"] if "labels" in data.files else None
        self.picks = picks

    def __len__(self) -> int:
        return len(self.picks)

    def __iter__(self) -> Iterator[tuple[Array, int | None]]:
        for i in self.picks:
            image = Image.open(io.BytesIO(self.blob[self.offsets[i] : self.offsets[i + 1]].tobytes()))
            yield np.asarray(image.convert("RGB")), None if self.labels is None else int(self.labels[i])


def imagenet_calibration() -> Images:
    """Every fifth of the 500 images."""
    return Images("imagenet_500.npz", range(0, 500, 5))


def imagenet_evaluation() -> Images:
    """The other 400."""
    return Images("imagenet_500.npz", [i for i in range(500) if i % 5])


def coco_calibration() -> Images:
    """The first 64 of the 128 images."""
    return Images("coco_128.npz", range(64))


def coco_evaluation() -> Images:
    """The other 64."""
    return Images("coco_128.npz", range(64, 128))


def chosen(names: Iterable[str], default: Iterable[str]) -> list[Network]:
    """The networks named on the command line, or the default ones. Ends the program when ``../shared`` is absent."""
    if not DATA.is_dir():
        print("skipped: the reference networks are not beside this checkout (../shared)")
        sys.exit(0)
    wanted = list(names) or list(default)
    unknown = [name for name in wanted if name not in NETWORKS]
    if unknown:
        sys.exit(f"unknown network {', '.join(unknown)}; known: {', '.join(NETWORKS)}")
    return [NETWORKS[name] for name in wanted]


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder that is empty at first and gone afterwards, so that no result is an old one."""
    with tempfile.TemporaryDirectory(prefix="edgekit-benchmark-") as folder:
        yield Path(folder)


def built(
    network: Network, targets: Sequence[str], folder: Path, quantization: Mapping[str, Any] | None = None
) -> dict[str, Path]:
    """Build a network and say where the artifacts lie, by target. Empty, with a line, where edgekit refuses it."""
    started = time.perf_counter()
    try:
        project = network.project(folder, quantization=quantization)
        reports = build(project, targets, folder / network.name)
    except EdgekitError as error:
        print(f"{network.name}: not built: {str(error).splitlines()[0]}", file=sys.stderr)
        return {}
    print(f"{network.name}: built in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return {name: Path(report.artifact.path) for name, report in zip(targets, reports, strict=True)}


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    shown = Table(*columns, title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def floor(what: str, value: float, limit: float, holds: bool) -> dict[str, Any]:
    """One floor and what was measured."""
    return {"what": what, "value": value, "limit": limit, "holds": bool(holds)}


def at_most(what: str, value: float, limit: float) -> dict[str, Any]:
    """A floor that is an upper limit."""
    return floor(what, value, limit, value <= limit)


def at_least(what: str, value: float, limit: float) -> dict[str, Any]:
    """A floor that is a lower limit."""
    return floor(what, value, limit, value >= limit)


def stamp() -> dict[str, Any]:
    """When, with what and on what a result was measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "edgekit": version("edgekit") if _installed("edgekit") else "checkout",
        "commit": commit.stdout.strip(),
        "versions": {name: version(name) for name in PACKAGES if _installed(name)},
        "machine": machine() | {"system": platform.system()},
    }


def _installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def load(name: str) -> dict[str, Any]:
    """The results of a benchmark; empty when it has never run."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def save(name: str, results: Mapping[str, Any]) -> None:
    """Merge results by key into the benchmark's file, each with when and where it was measured."""
    RESULTS.mkdir(exist_ok=True)
    stamped = {key: {"measured": stamp(), **value} for key, value in results.items()}
    merged = load(name) | stamped
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(dict(sorted(merged.items())), indent=1, ensure_ascii=False) + "\n")


def finish(name: str, results: Mapping[str, Any]) -> None:
    """Save, print every floor, and end with 1 when one is missed."""
    save(name, results)
    floors = [(key, item) for key, value in results.items() for item in value.get("floors", [])]
    for key, item in floors:
        word = "holds " if item["holds"] else "MISSED"
        print(f"{word}  {key}: {item['what']}: {item['value']:.6g} (floor {item['limit']:.6g})")
    sys.exit(0 if all(item["holds"] for _, item in floors) else 1)
