"""Many architectures, each in every precision and both formats: what is built, what is refused, what is wrong.

    python benchmarks/zoo.py [--only NAME ...] [--again]

Each model is loaded in a process of its own, and each artifact made and run in another, with a limit of time, so that
what crashes spoils nothing else. Results are written after every model; what has one is left out unless ``--again`` or
``--only`` asks for it. ``docs/zoo.md`` is made from them.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import shared
import torch
import zoo_models

from edgekit.audit import audit
from edgekit.build import build
from edgekit.errors import EdgekitError, UnsupportedError
from edgekit.frontends import Loaded, load_source
from edgekit.passes import prepare
from edgekit.project import parse_project
from edgekit.runners import ArtifactModel
from edgekit.runtimes import open_session, runtime_for
from edgekit.samples import Sample

TARGETS = {"TFLite": "raspberry-pi-4-litert", "ONNX": "linux-x86_64-onnxruntime"}
PRECISIONS = ("float32", "dynamic-int8", "int8")
LOAD_SECONDS, CASE_SECONDS = 180, 60
CALIBRATED, JUDGED = 16, 6
RUNS = 20
SOUND_DB = {"float32": 60.0, "dynamic-int8": 5.0, "int8": 0.0}  # below, it computes something else
FLOORS = {"float32": 0.95, "dynamic-int8": 0.95, "int8": 0.85}  # of the models, built and run in both formats
GOOD, WRONG, REFUSED, CRASHED = "built", "wrong", "refused", "crashed"
PAGE = shared.ROOT / "docs" / "zoo.md"

Result = dict[str, Any]


def main() -> None:
    """Run what has no result yet, or what is asked for, and end with 1 when a floor is missed."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="these architectures")
    parser.add_argument("--again", action="store_true", help="all, whatever has a result already")
    asked = parser.parse_args()
    zoo = zoo_models.ZOO
    unknown = [name for name in asked.only if name not in zoo]
    if unknown:
        sys.exit(f"unknown architecture {', '.join(unknown)}; known: {', '.join(zoo)}")
    done = {} if asked.again or asked.only else shared.load("zoo")
    torch.set_num_threads(1)
    warm()
    for name in asked.only or [name for name in zoo if name not in done]:
        found = examined(name)
        shared.save("zoo", {name: found})
        print(line(name, found), flush=True)
    results = shared.load("zoo")
    PAGE.write_text(written(results), encoding="utf-8")
    missed = [floor for floor in floors(results) if not floor["holds"]]
    for floor in floors(results):
        word = "holds " if floor["holds"] else "MISSED"
        print(f"{word}  {floor['what']}: {floor['value']:.4g} (floor {floor['limit']:.4g})")
    sys.exit(1 if missed else 0)


def warm() -> None:
    """Import what loading a model takes, once for all the processes that are copied from this one."""
    load_source("zoo_models:sensor_mlp", shapes={"window": (1, 32, 3)}, folder=Path(__file__).parent)


def apart(work: Callable[[], Result], seconds: float) -> Result:
    """What ``work`` gives in a process of its own: a refusal is its one line, a crash and a lapse are told."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_guarded, args=(work, theirs))
    process.start()
    theirs.close()
    try:
        answer: Result = ours.recv() if ours.poll(seconds) else {"status": CRASHED, "line": f"over {seconds:.0f} s"}
    except EOFError:
        process.join()
        code = process.exitcode or 0
        answer = {"status": CRASHED, "line": signal.Signals(-code).name if code < 0 else f"exit status {code}"}
    process.kill()
    process.join()
    return answer


def _guarded(work: Callable[[], Result], out: Connection) -> None:
    """Send what ``work`` gives. What edgekit does not raise on purpose is a crash: the end of its traceback is sent."""
    answer: Result = {}
    try:
        answer = work()
    except EdgekitError as error:
        lines = error.problems if isinstance(error, UnsupportedError) else [str(error)]
        answer = {"status": REFUSED, "line": " / ".join(" ".join(line.split())[:240] for line in lines[:4])}
    finally:
        kind, error, _ = sys.exc_info()
        if kind is not None:
            at = traceback.extract_tb(sys.exc_info()[2])[-1]
            where = f"{Path(at.filename).name}:{at.lineno}"
            answer = {"status": CRASHED, "line": f"{kind.__name__} at {where}: {' '.join(str(error).split())[:240]}"}
        out.send(answer)


def examined(name: str) -> Result:
    """One architecture: loaded, then each of its artifacts."""
    started = time.perf_counter()
    found = apart(lambda: _cases(name), LOAD_SECONDS + 6 * CASE_SECONDS)
    return {"seconds": round(time.perf_counter() - started, 1), **found}


def _cases(name: str) -> Result:
    """Load a model once; every artifact is made and run in a copy of this process, before any runtime has threads."""
    entry = zoo_models.ZOO[name]
    shapes = {key: item.shape for key, item in entry.inputs.items()}
    source = load_source(f"zoo_models:{name}", shapes=shapes, folder=Path(__file__).parent)
    judged = [as_sample(sample) for sample in entry.samples(JUDGED, 2)]
    wanted = [source.run(sample.inputs) for sample in judged]
    ops = counted(node.op_type for node in prepare(source.model).graph)
    with shared.workplace() as folder:
        samples = entry.samples(CALIBRATED, 1)
        np.savez(folder / "data.npz", **{key: np.concatenate([one[key] for one in samples]) for key in shapes})
        inputs = {key: {"shape": list(shape)} for key, shape in shapes.items()}
        calibration = {"data": str(folder / "data.npz"), "samples": CALIBRATED}
        project = {"model": {"source": f"zoo_models:{name}", "inputs": inputs}, "calibration": calibration}
        case = Case(source, project, judged, wanted)
        cases = {
            f"{form} {precision}": apart(functools.partial(case.run, target, precision), CASE_SECONDS)
            for form, target in TARGETS.items()
            for precision in PRECISIONS
        }
    return {"status": GOOD, "ops": ops, "cases": cases}


def as_sample(values: Mapping[str, Any]) -> Sample:
    """Inputs as edgekit takes them: real numbers by name."""
    return Sample({name: value.astype(np.float32) for name, value in values.items()})


def counted(names: Iterable[str]) -> str:
    """How often each op occurs, on one line."""
    return ", ".join(f"{name} {number}" for name, number in sorted(Counter(names).items()))


@dataclass(frozen=True)
class Case:
    """One loaded model, what calibrates and judges it, and what the original says of the latter."""

    source: Loaded
    project: dict[str, Any]
    judged: list[Sample]
    wanted: list[list[Any]]

    def run(self, target: str, precision: str) -> Result:
        """Make one artifact and judge it. Raises EdgekitError."""
        floating = 0
        try:
            data = self.artifact(target, precision)
        except UnsupportedError as error:
            if not all("has no integer kernel" in problem for problem in error.problems):
                raise
            floating, data = len(error.problems), self.artifact(target, precision, allow_float=True)
        model = ArtifactModel(data)
        snr = self.snr(model)
        return {
            "status": GOOD if snr >= SOUND_DB[precision] else WRONG,
            "snr_db": round(snr, 1) if np.isfinite(snr) else None,
            "p50_ms": round(latency(data, model.contract.encode(self.judged[0].inputs)), 4),
            "bytes": len(data),
            "float_nodes": floating,
            "ops": counted(item.op for item in audit(data).ops),
        }

    def artifact(self, target: str, precision: str, allow_float: bool = False) -> bytes:
        """The bytes that ``edgekit build`` makes of the model that is loaded; the zoo judges and times them itself."""
        settings = {"precision": precision, "allow_float": allow_float}
        project = parse_project({**self.project, "quantization": settings}, shared.ROOT, "zoo")
        with (
            shared.workplace() as folder,
            patch("edgekit.build.load_source", lambda *_: self.source),
            patch("edgekit.stages.Work.examine", lambda _, built, __: built.keep()),
        ):
            (report,) = build(project, [target], folder)
            return Path(report.artifact.path).read_bytes()

    def snr(self, model: ArtifactModel) -> float:
        """Signal over noise of the worst output, in dB; the signal is free of its mean over the samples."""
        got = [list(model.outputs(sample.inputs).values()) for sample in self.judged]
        worst = np.inf
        for at in range(len(self.wanted[0])):
            wanted = np.stack([outputs[at] for outputs in self.wanted]).astype(np.float64)
            found = np.stack([outputs[at] for outputs in got]).astype(np.float64).reshape(wanted.shape)
            signal, noise = np.sum((wanted - wanted.mean(0)) ** 2), np.sum((wanted - found) ** 2)
            if np.isnan(noise) or (noise > 0 and signal == 0):
                return -np.inf
            worst = min(worst, 10 * np.log10(signal / noise)) if noise > 0 else worst
        return float(worst)


def latency(data: bytes, feeds: Mapping[str, Any]) -> float:
    """The median of a few runs in milliseconds, one thread: for comparing orders of magnitude only."""
    session, seconds = open_session(data, runtime_for(data)), []
    for _ in range(RUNS + 3):
        started = time.perf_counter()
        session.run(feeds)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[3:])) * 1000


def case_of(found: Result, form: str, precision: str) -> Result:
    """One artifact's result; what was not loaded has that of its loading for all of them."""
    result: Result = found.get("cases", {}).get(f"{form} {precision}", found)
    return result


def floors(results: Mapping[str, Result]) -> list[Result]:
    """The share of models that is built and runs in each precision, in both formats; and that none is wrong."""
    judged = []
    for precision, limit in FLOORS.items():
        good = [all(case_of(one, form, precision)["status"] == GOOD for form in TARGETS) for one in results.values()]
        share = sum(good) / max(len(good), 1)
        named = f"{precision}, float nodes allowed" if precision == "int8" else precision
        judged.append(shared.at_least(f"share built and run in {named}", share, limit))
    wrong = sum(item["status"] == WRONG for one in results.values() for item in one.get("cases", {}).values())
    return [*judged, shared.at_most("artifacts that compute something else", wrong, 0)]


def line(name: str, found: Result) -> str:
    """What is printed of one model."""
    said = [cell(case_of(found, form, precision)) for form in TARGETS for precision in PRECISIONS]
    return f"{name} ({found['seconds']:.0f} s): {' | '.join(said)}"


def cell(result: Result) -> str:
    """One artifact in a table: its signal-to-noise ratio, or what became of it."""
    if result["status"] not in (GOOD, WRONG):
        return str(result["status"])
    snr = "exact" if result["snr_db"] is None else f"{result['snr_db']:.0f} dB"
    floating = f", {result['float_nodes']} float" if result["float_nodes"] else ""
    return f"{'**wrong** ' if result['status'] == WRONG else ''}{snr}{floating}"


INTRO = """\
<!-- written by benchmarks/zoo.py; do not edit -->

# The zoo

{number} small architectures with random, sane weights, each through three precisions and both formats: TFLite under
LiteRT, ONNX under ONNX Runtime. A cell is the signal-to-noise ratio of the worst output against the original in torch,
or what became of the artifact. *n float*: so many nodes have no integer kernel and were allowed to compute on real
numbers (`--allow-float`). What was refused or crashed is told below. Sizes, latencies and operators are in
[zoo.json](../benchmarks/results/zoo.json); `python benchmarks/zoo.py` makes both.

*Wrong* is less than 60 dB in float32, 5 dB in dynamic-int8 and 0 dB in int8. The last two are low on purpose: what
random weights compute is far more sensitive to rounding than what trained ones do, so these numbers say that an
artifact computes the network, not how accurate int8 is; for that see [the benchmarks](../README.md).
"""


def written(results: Mapping[str, Result]) -> str:
    """The page: a table with a total line, and the reason of each failure."""
    keys = [(form, precision) for form in TARGETS for precision in PRECISIONS]
    heads = ["architecture", *(f"{form} {precision}" for form, precision in keys)]
    rows = [[f"`{name}`", *(cell(case_of(one, *key)) for key in keys)] for name, one in results.items()]
    number = len(results)
    totals = [sum(case_of(one, *key)["status"] == GOOD for one in results.values()) for key in keys]
    rows.append(["**built and sound**", *(f"**{total} of {number}**" for total in totals)])
    whole = [sum(case_of(one, *key).get("float_nodes") == 0 for one in results.values()) for key in keys]
    rows.append(
        [
            "all in integers",
            *(f"{n} of {number}" if key[1] == "int8" else "" for n, key in zip(whole, keys, strict=True)),
        ]
    )
    table = ["| " + " | ".join(row) + " |" for row in (heads, [":--", *["--:"] * len(keys)], *rows)]
    why = [f"- {said}" for name, one in results.items() for said in dict.fromkeys(reasons(name, one))]
    failures = ["", "## What was not built", "", *why] if why else []
    return "\n".join([INTRO.format(number=number), *table, *failures]) + "\n"


def reasons(name: str, found: Result) -> list[str]:
    """Why artifacts of one model were not built; what all six say alike is said once."""
    if "cases" not in found:
        return [f"`{name}`: {found['line']}"]
    failed = {key: item["line"] for key, item in found["cases"].items() if "line" in item}
    return [f"`{name}`, {', '.join(k for k, v in failed.items() if v == said)}: {said}" for said in failed.values()]


if __name__ == "__main__":
    main()
