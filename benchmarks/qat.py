"""Training that ends in integers, and training by a teacher, on CIFAR-10.

    python benchmarks/qat.py [--only quantize|distil] [--moving] [--epochs N] [--images N] [--seeds N]

*quantize*: the MobileNetV3-like network, trained on in float and with its tensors rounded, from the same weights, for
as long, on the same images; beside them the plan without training. Every integer figure is that of an artifact in its
runtime. *distil*: a ResNet20 of half the channels from random weights, alone and taught by the whole ResNet20 (itself
fine-tuned for a little while first, as these images went through JPEG), over three seeds, all in bfloat16 where the
machine multiplies in it. All are judged by the 5,000 shared test images. With fewer epochs, images or seeds than by
default nothing is saved, and floors say nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import shared
import torch
from torch import nn

from edgekit import load_graph, load_target, open_samples
from edgekit.compress.distill import Distill
from edgekit.compress.qat import QuantizeAware, post_training
from edgekit.compress.steps import METHODS, Context, FineTune
from edgekit.compress.training import Training
from edgekit.emit import emit
from edgekit.inputs import InputConfig
from edgekit.passes import opened
from edgekit.progress import open_progress
from edgekit.quant.plan import QuantPlan
from edgekit.runners import ArtifactModel, FloatModel, Runner
from edgekit.verify import evaluate, metric_of

SHAPE = {"x": (1, 3, 32, 32)}
INPUTS = {"x": InputConfig(mean=tuple(shared.CIFAR["mean"]), std=tuple(shared.CIFAR["std"]))}
EPOCHS = {"quantize": 3, "distil": 3}
IMAGES, SEEDS, CALIBRATES = 12_000, 3, 512
TUNED = Training(batch=64, rate=0.01, smoothing=0.1)
SCRATCH = Training(batch=64, optimizer="nesterov", rate=0.05, decay=5e-4, mixed=True)
TEACHER = Training(epochs=1, batch=64, rate=0.01, mixed=True)
MOST_LOST = 0.003  # of the images, by training in integers against training in float
PROGRESS = open_progress()


def main() -> None:
    """Run both parts, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=sorted(EPOCHS))
    parser.add_argument("--moving", action="store_true", help="train in integers with moving ranges too")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    shared.chosen([], [])
    torch.set_num_threads(1)
    scales = ("learned", "moving") if given.moving else ("learned",)
    parts = {"quantize": partial(quantize, scales), "distil": partial(distil, given.seeds)}
    chosen = {name: run for name, run in parts.items() if given.only in (None, name)}
    results = {name: run(given.epochs or EPOCHS[name], given.images) for name, run in chosen.items()}
    if given.epochs is None and given.images == IMAGES and given.seeds == SEEDS:
        shared.finish("qat", results)
    print("a short form: not saved")
    sys.exit(0)


def images(name: str, limit: int | None = None) -> Any:
    """Preprocessed images of ``../shared``."""
    return open_samples(str(shared.DATA / f"cifar10_{name}.npz"), SHAPE, INPUTS, limit=limit)


def context(count: int, source: ir.Model) -> Context:
    """So many images to train with."""
    return Context(images("train", count), images("calib", CALIBRATES), PROGRESS, source=source)


def top1(runner: Runner) -> float:
    """The share of the test images that are recognized."""
    test = images("test")
    return evaluate(runner, test, metric_of("top1", Path()), PROGRESS, "evaluate", len(test)).value


def in_integers(graph: ir.Model, plan: QuantPlan) -> dict[str, float]:
    """What the artifacts of both formats recognize."""
    targets = {"tflite": shared.TFLITE, "onnx": shared.ONNX}
    return {name: top1(ArtifactModel(emit(graph, plan, load_target(t)).data)) for name, t in targets.items()}


def quantize(scales: Sequence[str], epochs: int, count: int) -> dict[str, Any]:
    """The MobileNetV3-like network in float and in integers, before and after the same training."""
    graph = opened(load_graph("definitions:cifar10_mobilenet_v3", None, SHAPE, shared.MODELS))
    given, how = context(count, graph), replace(TUNED, epochs=epochs)
    found: dict[str, Any] = {"epochs": epochs, "images": count, "before": {"float": top1(FloatModel(graph))}}
    found["before"] |= in_integers(*post_training(graph, QuantizeAware(), given))
    started = time.perf_counter()
    tuned = METHODS["fine-tune"].run(graph, FineTune(how), given)
    found["seconds"] = {"float": time.perf_counter() - started}
    found["float trained"] = {"float": top1(FloatModel(tuned.graph))}
    found["float trained"] |= in_integers(*post_training(tuned.graph, QuantizeAware(), given))
    for kind in scales:
        started = time.perf_counter()
        outcome = METHODS["quantize-aware"].run(graph, QuantizeAware(scales=kind, training=how), given)
        found["seconds"][kind] = time.perf_counter() - started
        assert outcome.plan is not None
        found[f"trained in integers, {kind} scales"] = in_integers(outcome.graph, outcome.plan)
    rows = [(name, *(f"{100 * value[k]:.2f} %" if k in value else "" for k in ("float", "tflite", "onnx")))
            for name, value in found.items() if name not in ("epochs", "images", "seconds")]  # fmt: skip
    shared.table(f"MobileNetV3-like, {count:,} images, {epochs} epochs: top-1", ("", "float", "TFLite", "ONNX"), rows)
    ours = found["trained in integers, learned scales"]
    lost = found["float trained"]["float"] - min(ours["tflite"], ours["onnx"])
    return found | {"floors": [shared.at_most("top-1 lost against float trained as long", lost, MOST_LOST)]}


def distil(seeds: int, epochs: int, count: int) -> dict[str, Any]:
    """The student alone and with a teacher, for every seed."""
    teacher = opened(load_graph("definitions:cifar10_resnet20", None, SHAPE, shared.MODELS))
    teacher = METHODS["fine-tune"].run(teacher, FineTune(TEACHER), context(count, teacher)).graph
    found: dict[str, Any] = {"epochs": epochs, "images": count, "teacher": top1(FloatModel(teacher))}
    found |= {"alone": [], "taught": []}
    for seed in range(seeds):
        torch.manual_seed(seed)
        student = opened(load_graph("qat:half_resnet20", None, SHAPE, Path(__file__).parent))
        given, how = context(count, teacher), replace(SCRATCH, epochs=epochs, seed=seed)
        for name, method, settings in (
            ("alone", "fine-tune", FineTune(how)),
            ("taught", "distill", Distill(training=how)),
        ):
            outcome = METHODS[method].run(student, settings, given)
            found[name].append(top1(FloatModel(outcome.graph)))
            PROGRESS.note(f"seed {seed}, {name}: {found[name][-1]:.2%}")
    gains = [taught - alone for taught, alone in zip(found["taught"], found["alone"], strict=True)]
    rows = [(str(i), *(f"{100 * found[k][i]:.2f} %" for k in ("alone", "taught")), f"{100 * gain:+.2f}")
            for i, gain in enumerate(gains)]  # fmt: skip
    shared.table(f"Half a ResNet20, {count:,} images, {epochs} epochs: top-1", ("seed", "alone", "taught", ""), rows)
    floors = [
        shared.at_least("top-1 gained by a teacher, mean of the seeds", float(np.mean(gains)), 0.0),
        shared.at_least("top-1 gained by a teacher, least of the seeds", min(gains), 0.0),
    ]
    return found | {"floors": floors}


def half_resnet20() -> nn.Module:
    """ResNet20 for CIFAR-10 with half the channels, its weights random."""
    defined = shared.definitions()
    widths = (8, 16, 32)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    for before, width in zip((8, *widths), widths, strict=False):
        layers += [defined.CifarBlock(before, width, 1 if before == width else 2)]
        layers += [defined.CifarBlock(width, width, 1) for _ in range(2)]
    for layer in layers:
        for part in layer.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    module.eval()
    return module


if __name__ == "__main__":
    main()
