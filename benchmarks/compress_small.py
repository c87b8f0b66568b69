"""How small pruning, clustering and int8 make a trained network, and what low rank saves and costs.

    python benchmarks/compress_small.py [size] [taught] [curve] [--short]

size    ResNet20: prune, cluster, train for int8; its constants in a Huffman code against float32, and the accuracy
        against the same network fine-tuned for as long without compression.
taught  The same, taught by the network after three epochs on these images, and so is what it is compared with.
curve   ResNet56 by Tucker-2 at several budgets of multiply-adds, as decomposed and fine-tuned; its long run draws
        docs/tucker.svg.

All training multiplies in bfloat16 where the machine does, that of what is compared too.

``--short`` trains for one epoch a step on 4,000 images: it shows that all of it works, and its figures are no result
to quote. Fine-tuning alone moves the accuracy on these images, so only like is compared with like.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import chart
import numpy as np
import onnx_ir as ir
import shared

from edgekit.compress import cluster, distill, low_rank, magnitude, qat  # noqa: F401 - they declare their methods
from edgekit.compress.coded import integers_bytes
from edgekit.compress.steps import METHODS, Context, Outcome, read_settings
from edgekit.emitters import Artifact, tflite
from edgekit.frontends import load_source
from edgekit.inputs import InputConfig
from edgekit.passes import opened, prepare
from edgekit.progress import SilentProgress, open_progress
from edgekit.quant import codebook
from edgekit.quant.calibrate import observe, ranges_of
from edgekit.quant.plan import QuantPlan
from edgekit.quant.ranges import Method
from edgekit.quant.solve import Rules, solve
from edgekit.runners import ArtifactModel, FloatModel
from edgekit.samples import Samples, open_samples
from edgekit.toml_table import Table

SHAPE = (1, 3, 32, 32)
SPARSITY, CLUSTERS = 0.5, 10
SMALLER, LOST = 12.0, 1.0  # the floors: times, and points of top-1
DRAWN = shared.ROOT / "docs" / "tucker.svg"
BUDGETS = (0.8, 0.65, 0.5, 0.35)
HOW = {"batch": 64, "optimizer": "nesterov", "rate": 0.01, "schedule": "cosine", "mixed": True}
LAST = {**HOW, "rate": 0.002}
FIRST = {**HOW, "rate": 0.02}
TAUGHT = {**HOW, "alpha": 0.7, "temperature": 4.0}
INTEGERS = {key: value for key, value in LAST.items() if key != "mixed"}


@dataclass(frozen=True)
class Form:
    """How long a run is: images that train, and epochs of each part."""

    images: int
    epochs: int
    clustered: int
    integers: int
    curve: int
    first: int
    pruned: int
    taught: int

    def said(self, epochs: str) -> str:
        """For the results."""
        return f"{epochs} epochs on {self.images:,} images, judged on {JUDGED:,}"


JUDGED, CALIBRATES = 5_000, 256
LONG, SHORT = Form(12_000, 10, 3, 2, 1, 3, 2, 4), Form(4_000, 1, 1, 1, 1, 1, 1, 1)
PROGRESS = open_progress()


def data(name: str, limit: int) -> Samples:
    """Images of ``../shared``, prepared."""
    return open_samples(str(shared.DATA / name), {"x": SHAPE}, {"x": InputConfig(**shared.CIFAR)}, limit=limit)


def step(graph: ir.Model, form: Form, **written: Any) -> Outcome:
    """One ``[[compress]]`` step, trained on the training images."""
    started = time.perf_counter()
    found, train = METHODS[written.pop("method")], data("cifar10_train.npz", form.images)
    settings = read_settings(found.settings, Table(written, "benchmarks"))
    done = found.run(graph, settings, Context(train, data("cifar10_calib.npz", CALIBRATES), PROGRESS))
    PROGRESS.note(f"{found.name} {written}: {time.perf_counter() - started:.0f} s")
    return done


def top1(model: FloatModel | ArtifactModel) -> float:
    """Share of test images whose largest output is their label, in percent."""
    right = total = 0
    for sample in data("cifar10_test.npz", JUDGED):
        (scores,) = model.outputs(sample.inputs).values()
        right, total = right + int(np.argmax(scores) == sample.label), total + 1
    PROGRESS.note(f"top-1 {100 * right / total:.2f} %")
    return 100 * right / total


def integers(graph: ir.Model) -> tuple[ir.Model, QuantPlan, Artifact]:
    """The int8 TFLite artifact, its plan and prepared graph; channels are not equalized, which would mix values."""
    prepared, method = prepare(graph), Method("mse")
    samples = data("cifar10_calib.npz", CALIBRATES)
    ranges = ranges_of(observe(prepared, samples, method, SilentProgress(), len(samples)), method)
    plan = solve(prepared, ranges, Rules(bounds=codebook.bounds(graph, prepared)))
    return prepared, plan, tflite.emit(prepared, plan)


def source(name: str) -> ir.Model:
    """A trained network of ``../shared``, as it can be trained."""
    return opened(load_source(f"definitions:{name}", None, {"x": SHAPE}, shared.MODELS).model)


def size(form: Form) -> dict[str, Any]:
    """Prune, cluster, int8 on ResNet20, beside the same training without."""
    graph = source("cifar10_resnet20")
    plain = step(graph, form, method="fine-tune", epochs=form.epochs, **HOW).graph
    plain = step(plain, form, method="fine-tune", epochs=form.clustered + form.integers, **LAST).graph
    pruned = step(graph, form, method="prune", sparsity=SPARSITY, scope="global", epochs=form.epochs, **HOW)
    found = step(pruned.graph, form, method="cluster", clusters=CLUSTERS, epochs=form.clustered, **LAST)
    last = step(found.graph, form, method="quantize-aware", epochs=form.integers, **INTEGERS)
    assert last.plan is not None
    sizes, artifact = integers_bytes(last.graph, last.plan), tflite.emit(last.graph, last.plan)
    whole = tflite.emit(prepare(plain), QuantPlan({})).data
    accuracy = {
        "source": top1(FloatModel(prepare(graph))),
        "fine-tuned float": top1(FloatModel(prepare(plain))),
        "fine-tuned int8": top1(ArtifactModel(integers(plain)[2].data)),
        "pruned float": top1(FloatModel(prepare(pruned.graph))),
        "pruned and clustered float": top1(FloatModel(prepare(found.graph))),
        "pruned and clustered int8": top1(ArtifactModel(integers(found.graph)[2].data)),
        "compressed int8": top1(ArtifactModel(artifact.data)),
    }
    shared.table("ResNet20, top-1 in %", ("", "top-1"), [(name, f"{value:.2f}") for name, value in accuracy.items()])
    return {
        "form": form.said(f"{form.epochs} + {form.clustered} + {form.integers}"),
        "accuracy": accuracy,
        "sparsity": pruned.facts["sparsity"],
        "float_coded": found.facts["coded_bytes"],
        "int8_coded": sizes,
        "artifact": {
            "float": len(whole),
            "int8": len(artifact.data),
            "int8_gzip": len(gzip.compress(artifact.data, 9)),
        },
        "floors": floors(sizes["ratio"], accuracy["fine-tuned float"] - accuracy["compressed int8"], form),
    }


def taught(form: Form) -> dict[str, Any]:
    """The same sizes by a teacher: the network, trained on these images first, teaches itself with and without."""
    graph = source("cifar10_resnet20")
    base = step(graph, form, method="fine-tune", epochs=form.first, **FIRST).graph
    pruned = step(base, form, method="prune", sparsity=SPARSITY, scope="global", epochs=form.pruned, **HOW)
    found = learned(pruned.graph, base, form.taught, 0.02, form)
    found = step(found, form, method="cluster", clusters=CLUSTERS, epochs=0).graph
    found = learned(found, base, form.taught, 0.01, form)
    control = learned(base, base, form.pruned + 2 * form.taught, 0.02, form)
    prepared, plan, artifact = integers(found)
    sizes = integers_bytes(prepared, plan)
    accuracy = {
        "trained first": top1(FloatModel(prepare(base))),
        "taught float": top1(FloatModel(prepare(control))),
        "pruned, clustered and taught float": top1(FloatModel(prepared)),
        "compressed int8": top1(ArtifactModel(artifact.data)),
    }
    shared.table("ResNet20, taught, top-1 in %", ("", "top-1"), [(n, f"{value:.2f}") for n, value in accuracy.items()])
    return {
        "form": form.said(f"{form.first} + {form.pruned} + {form.taught} + {form.taught}"),
        "accuracy": accuracy,
        "int8_coded": sizes,
        "floors": floors(sizes["ratio"], accuracy["taught float"] - accuracy["compressed int8"], form),
    }


def learned(graph: ir.Model, teacher: ir.Model, epochs: int, rate: float, form: Form) -> ir.Model:
    """A graph taught by another; zeros and shared values stay."""
    found, train = METHODS["distill"], data("cifar10_train.npz", form.images)
    settings = read_settings(found.settings, Table({**TAUGHT, "epochs": epochs, "rate": rate}, "benchmarks"))
    context = Context(train, data("cifar10_calib.npz", CALIBRATES), PROGRESS, source=teacher)
    return found.run(graph, settings, context).graph


def floors(ratio: float, lost: float, form: Form) -> list[dict[str, Any]]:
    """What a long run must reach; a short one is printed only."""
    print(f"{ratio:.2f} times smaller, {lost:.2f} points lost against the fine-tuned float network")
    found = [
        shared.at_least("times smaller, constants in a Huffman code", ratio, SMALLER),
        shared.at_most("points lost against the fine-tuned float network", lost, LOST),
    ]
    return found if form is LONG else []


def curve(form: Form) -> dict[str, Any]:
    """Tucker-2 on ResNet56 at several budgets."""
    graph = source("cifar10_resnet56")
    plain = step(graph, form, method="fine-tune", epochs=form.curve, **HOW).graph
    accuracy = {"source": top1(FloatModel(prepare(graph))), "fine-tuned": top1(FloatModel(prepare(plain)))}
    rows: list[dict[str, Any]] = []
    for budget in BUDGETS:
        still = step(graph, form, method="low-rank", macs=budget, epochs=0)
        tuned, facts = step(still.graph, form, method="fine-tune", epochs=form.curve, **HOW), still.facts
        rows.append(
            {
                "budget": budget,
                "macs": facts["macs_after"] / facts["macs_before"],
                "layers": len(facts["layers"]),
                "as_decomposed": top1(FloatModel(prepare(still.graph))),
                "fine_tuned": top1(FloatModel(prepare(tuned.graph))),
            }
        )
    shared.table(
        f"ResNet56 by Tucker-2 (source {accuracy['source']:.2f} %, fine-tuned {accuracy['fine-tuned']:.2f} %)",
        ("budget", "MACs", "layers", "as decomposed", "fine-tuned"),
        [
            (
                f"{r['budget']:g}",
                f"{r['macs']:.3f}",
                str(r["layers"]),
                f"{r['as_decomposed']:.2f}",
                f"{r['fine_tuned']:.2f}",
            )
            for r in rows
        ],
    )
    if form is LONG:
        DRAWN.write_text(drawn(accuracy, rows))
    return {"form": form.said(str(form.curve)), "accuracy": accuracy, "points": rows}


def drawn(accuracy: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> str:
    """The curve as SVG; the network before decomposition stands at 1."""
    series = {
        name: [(1.0, accuracy[first]), *((r["macs"], r[key]) for r in rows)]
        for name, first, key in (
            ("fine-tuned", "fine-tuned", "fine_tuned"),
            ("as decomposed", "source", "as_decomposed"),
        )
    }
    axes = ("multiply-adds, as a share of the whole network's", "top-1, %")
    return chart.lines("Tucker-2 on ResNet56, CIFAR-10", axes, series)


PARTS = {
    "size": ("cifar10_resnet20", size),
    "taught": ("cifar10_resnet20", taught),
    "curve": ("cifar10_resnet56", curve),
}


def main(arguments: Sequence[str]) -> None:
    """Run the parts that are named, or both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="by default all")
    parser.add_argument("--short", action="store_true", help="one epoch on 4,000 images: no result to quote")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    shared.chosen([], ["cifar10_resnet20"])  # ends here where ``../shared`` is absent
    shared.definitions()
    results = {}
    for part in given.parts or PARTS:
        network, run = PARTS[part]
        results[f"{network} {part}{', short' if given.short else ''}"] = run(SHORT if given.short else LONG)
    shared.finish("compress_small", results)


if __name__ == "__main__":
    main(sys.argv[1:])
