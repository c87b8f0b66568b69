"""The commands: flags only. What a command does lives in the module that it imports, when it runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit import __version__
from edgekit.flags import (
    EXIT_CODES,
    NO_MODEL,
    Commands,
    answer,
    config_option,
    described,
    device_option,
    existing_config,
    html_option,
    json_flag,
    junit_option,
    markdown_option,
    progress,
    quiet_flag,
    settings_of,
)

if TYPE_CHECKING:
    pass


@click.group(cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="edgekit %(version)s")
def cli() -> None:
    """Turn a trained network into the smallest, fastest artifact that passes its gates on an edge device."""


@cli.command()
@click.argument("model", required=False)
@click.option("--target", "-t", "targets", multiple=True, required=True, metavar="NAME", help="May be given again.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build"), metavar="FOLDER", show_default=True)
@config_option
@click.option("--weights", "model__weights", metavar="FILE", help="The model's weights: safetensors, or a state_dict.")
@click.option("--calibration", "calibration__data", metavar="DATA", help=".npz, .npy, a folder, or module:iterable.")
@click.option("--recipe", "calibration__recipe", metavar="NAME", help="A calibration recipe.")
@click.option("--samples", "calibration__samples", type=int, metavar="N", help="How many samples calibrate.")
@click.option("--range", "calibration__range", metavar="METHOD", help="minmax, percentile, entropy or mse.")
@click.option(
    "--rounding", "calibration__rounding", metavar="METHOD", help="Of weights: reconstruct, nearest or adaround."
)
@click.option(
    "--precision",
    "quantization__precision",
    metavar="NAME",
    help="int8, float32, float16, dynamic-int8, mixed, int16x8.",
)
@click.option(
    "--recurrent", "quantization__recurrent", metavar="FORM", help="Of LSTM, GRU, RNN: fused, unrolled, loop, whole."
)
@click.option("--allow-float", "quantization__allow_float", is_flag=True, default=None, help="Let ops stay in float.")
@click.option("--evaluation", "evaluation__data", metavar="DATA", help="Held-out data with labels.")
@click.option("--metric", "evaluation__metric", metavar="METRIC", help="top1, top5 or module:function.")
@device_option
@junit_option
@markdown_option
@quiet_flag
@json_flag
def build(model: str | None, targets: Sequence[str], out: Path, config: Path | None, **flags: Any) -> None:
    """Build MODEL for every target.

    Calibrates, quantizes, verifies, measures, gates and reports. MODEL is net.onnx, net.pt2 or
    package.module:callable; by default what edgekit.toml says. FOLDER/NAME/ gets the artifact, plan.json,
    contract.json, report.json and report.html.

    \b
    edgekit build net.onnx --target raspberry-pi-4-litert --calibration calib.npz
    edgekit build -t raspberry-pi-4-litert -t raspberry-pi-4-onnxruntime
    """
    config = existing_config(config)
    if model is None and config is None:
        raise click.UsageError(NO_MODEL)
    from edgekit.build import build as build_all
    from edgekit.gate import exit_code
    from edgekit.project import Project
    from edgekit.report import store, terminal

    project = Project.from_flags(model, config, settings_of(flags))
    command = shlex.join(["edgekit", *sys.argv[1:]])
    device = project.device(flags["device"]) if flags["device"] else None
    reports = build_all(project, targets, out, progress(flags["quiet"]), command, device)
    store.save(reports, flags["junit"], flags["markdown"])
    code = exit_code([verdict for report in reports for verdict in report.gates])
    answer(flags["as_json"], {"exit_code": code, "reports": reports}, lambda: terminal.parts(reports))
    sys.exit(code)


@cli.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--against", type=click.Path(path_type=Path), metavar="OTHER", help="Time both, in turns.")
@click.option("--at-most", type=float, metavar="RATIO", help="A gate: at most so many times as long as OTHER.")
@click.option("--per-layer", is_flag=True, help="The time of every layer too, by the runtime's profiler.")
@click.option("--runtime", metavar="NAME", help="litert or onnxruntime; by default what the file is for.")
@device_option
@config_option
@click.option("--threads", type=int, metavar="N", help="By default those of the device, or 1.")
@click.option("--runs", type=int, default=50, show_default=True, metavar="N", help="At least so many timed runs.")
@click.option("--seconds", type=float, default=2.0, show_default=True, metavar="S", help="At least so long.")
@click.option("--inputs", default="random", show_default=True, metavar="DATA", help="random, zeros, or an .npz.")
@json_flag
def bench(artifact: Path, against: Path | None, device: str | None, config: Path | None, **effort: Any) -> None:
    """Time ARTIFACT on this machine, or on a device: latency, cold start, memory.

    \b
    edgekit bench build/raspberry-pi-4-litert/model.tflite
    edgekit bench build/raspberry-pi-4-litert/model.tflite --per-layer
    edgekit bench new.tflite --against old.tflite --at-most 1.05
    edgekit bench build/raspberry-pi-4-litert/model.tflite --device pi
    """
    from edgekit.profile import profile
    from edgekit.report import answers
    from edgekit.transports.connection import bench_on

    runtime, at_most, per_layer = effort.pop("runtime"), effort.pop("at_most"), effort.pop("per_layer")
    if at_most is not None and against is None:
        raise click.UsageError("--at-most goes with --against")
    if against is not None and runtime is not None:
        raise click.UsageError("--runtime goes without --against: each file runs under the runtime that it is for")
    if per_layer and (against is not None or device is not None):
        raise click.UsageError("--per-layer goes without --against and --device: it profiles one file on this machine")
    as_json, there = effort.pop("as_json"), described(device, config)
    if effort["threads"] is None:
        effort["threads"] = there.threads if there else 1
    with bench_on(there) as timer:
        if against is None:
            found = timer.measure(artifact, runtime, **effort)
            value: dict[str, Any] = {"artifact": artifact, "measurement": found}
            parts = partial(answers.bench, [(artifact.name, found)])
            if per_layer:
                value["layer_times"] = layers = profile(artifact, runtime, effort["threads"], inputs=effort["inputs"])
                parts = partial(answers.bench_per_layer, artifact.name, found, layers)
        else:
            both = timer.compare(artifact, against, **effort)
            named = list(zip(answers.names(artifact, against), (both.a, both.b), strict=True))
            value = {"artifact": artifact, "against": against, "comparison": both}
            word = both.verdict(at_most) if at_most is not None else ""
            value |= {"verdict": word} if word else {}
            parts = partial(answers.bench, named, both, word)
    answer(as_json, value, parts)
    sys.exit({"fail": 1, "inconclusive": 3}.get(value.get("verdict", ""), 0))


@cli.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--model", metavar="MODEL", help="net.onnx, net.pt2 or package.module:callable.")
@click.option("--data", "evaluation__data", metavar="DATA", help=".npz, .npy, a folder, or module:iterable.")
@config_option
@click.option("--weights", "model__weights", metavar="FILE", help="The model's weights: safetensors, or a state_dict.")
@click.option("--samples", "evaluation__samples", type=int, metavar="N", help="How many samples; all by default.")
@click.option("--metric", "evaluation__metric", metavar="METRIC", help="top1, top5 or module:function.")
@device_option
@quiet_flag
@json_flag
def verify(artifact: Path, model: str | None, config: Path | None, device: str | None, **flags: Any) -> None:
    """Hold ARTIFACT against the model that it came from.

    The metric of both where the data has labels, signal-to-noise of every tensor, and where it was lost. Inputs are
    preprocessed as edgekit.toml says, else as the artifact itself says. With --device ARTIFACT is run there too: its
    outputs are compared with this machine's, bit for bit, and so is the metric.

    \b
    edgekit verify build/raspberry-pi-4-litert/model.tflite --model net.onnx --data test.npz
    edgekit verify build/raspberry-pi-4-litert/model.tflite --device pi
    """
    from edgekit.project import Project
    from edgekit.recheck import recheck
    from edgekit.report import answers

    project = Project.from_flags(model, existing_config(config), settings_of(flags))
    found = recheck(artifact, project, progress(flags["quiet"]), project.device(device) if device else None)
    answer(flags["as_json"], found, lambda: answers.verify(found))


@cli.command()
@click.argument("model", required=False)
@click.option("--target", "-t", "target", required=True, metavar="NAME", help="Whose artifact to look into.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build"), metavar="FOLDER", show_default=True)
@config_option
@click.option("--weights", "model__weights", metavar="FILE", help="The model's weights: safetensors, or a state_dict.")
@click.option("--calibration", "calibration__data", metavar="DATA", help=".npz, .npy, a folder, or module:iterable.")
@click.option("--evaluation", "evaluation__data", metavar="DATA", help="Held-out data.")
@click.option("--metric", "evaluation__metric", metavar="METRIC", help="top1, top5 or module:function.")
@quiet_flag
@json_flag
def diagnose(model: str | None, target: str, out: Path, config: Path | None, **flags: Any) -> None:
    """Say where MODEL loses accuracy on a target, and why.

    Builds its artifact as edgekit build does, quantizes one tensor after the other alone to see what each costs, and
    names the causes with what to do about them.

    \b
    edgekit diagnose --config edgekit.toml --target raspberry-pi-4-litert
    """
    config = existing_config(config)
    if model is None and config is None:
        raise click.UsageError(NO_MODEL)
    from edgekit.diagnose.run import run
    from edgekit.project import Project
    from edgekit.report import diagnosis

    found = run(Project.from_flags(model, config, settings_of(flags)), target, out, progress(flags["quiet"]))
    answer(flags["as_json"], found, lambda: diagnosis.parts(found))


@cli.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--ops", "every_op", is_flag=True, help="List every op.")
@json_flag
def inspect(artifact: Path, every_op: bool, as_json: bool) -> None:
    """Tell what ARTIFACT is from its bytes.

    Ops, dtypes, sizes, multiply-adds, inputs and outputs, and how much of it computes in integers.

    \b
    edgekit inspect build/raspberry-pi-4-litert/model.tflite --ops
    """
    from edgekit.audit import audit_file
    from edgekit.report import answers

    found = audit_file(artifact).to_json()
    answer(as_json, {"artifact": artifact, "audit": found}, lambda: answers.inspect(str(artifact), found, every_op))


@cli.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@html_option
@json_flag
def compare(a: Path, b: Path, html: Path | None, as_json: bool) -> None:
    """Tell what became of A in B: two artifacts, or two reports (a report.json, or the folder that it is in).

    What grew, changed its scale or fell back to float, layer by layer; of reports also what slowed, accuracy and noise.

    \b
    edgekit compare released/model.tflite build/raspberry-pi-4-litert/model.tflite
    edgekit compare released build/raspberry-pi-4-litert --html changes.html
    """
    from edgekit.compare import compare as compared
    from edgekit.report import answers, store
    from edgekit.report.codec import encode

    found = compared(a, b)
    if html is not None:
        store.save_comparison(found, html)
    answer(as_json, encode(found), lambda: answers.compared(found))


@cli.command()
@click.argument("reports", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="REPORT...")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Take the limits from its [gates].")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="REPORT",
    help="An earlier report; made if there is none.",
)
@click.option("--tolerance", type=float, metavar="SHARE", help="What may be lost against it; 0.01 by default.")
@junit_option
@markdown_option
@json_flag
def gate(reports: Sequence[Path], as_json: bool, **flags: Any) -> None:
    """Judge REPORTs again, without building.

    A REPORT is a report.json, or the folder that it is in. The limits are those of --config, else those that the
    report was judged by.

    \b
    edgekit gate build/raspberry-pi-4-litert --config edgekit.toml
    edgekit gate build/raspberry-pi-4-litert --baseline released/report.json
    """
    from edgekit.baseline import judge_again
    from edgekit.gate import exit_code
    from edgekit.report import answers, store

    first = flags["baseline"] is not None and not flags["baseline"].exists()
    judged = judge_again(reports, flags["config"], flags["baseline"], flags["tolerance"])
    if first:
        known = "written; commit it" if flags["baseline"].exists() else "not written: a gate did not pass"
        click.echo(f"{flags['baseline']}: there was no baseline; {known}", err=True)
    store.save(judged, flags["junit"], flags["markdown"])
    code = exit_code([verdict for report in judged for verdict in report.gates])
    answer(as_json, {"exit_code": code, "reports": answers.gates_json(judged)}, lambda: answers.gates(judged))
    sys.exit(code)


@cli.command()
@click.argument("name", required=False)
@json_flag
def targets(name: str | None, as_json: bool) -> None:
    """List the target profiles, or show the facts of one.

    Those in ./targets/ come first, then those that edgekit brings.
    """
    from edgekit.report import answers
    from edgekit.target import list_targets, load_target

    if name is not None:
        one = load_target(name)
        answer(as_json, one.to_json(), lambda: answers.target(one))
        return
    found = [load_target(each) for each in list_targets()]
    answer(as_json, {"targets": [each.to_json() for each in found]}, lambda: answers.targets(found))


@cli.command()
@click.argument("folder", required=False, default=Path(), type=click.Path(path_type=Path))
@click.option("--model", metavar="MODEL", help="What [model] source is to say.")
@click.option("--calibration", metavar="DATA", help="What [calibration] data is to say.")
@json_flag
def init(folder: Path, model: str | None, calibration: str | None, as_json: bool) -> None:
    """Write a commented edgekit.toml into FOLDER.

    FOLDER is this one by default. An edgekit.toml that is there already is never written over.
    """
    from edgekit.report import answers
    from edgekit.scaffold import scaffold

    path = scaffold(folder, model, calibration)
    answer(as_json, {"created": [path]}, lambda: answers.init(path))


@cli.command()
@device_option
@config_option
@click.option("--clean", is_flag=True, help="Remove what edgekit keeps on the device.")
@json_flag
def doctor(device: str | None, config: Path | None, clean: bool, as_json: bool) -> None:
    """Check this machine, or a device, and say how to get what is missing.

    Looks at Python, the packages, the runtimes (each one runs a model), the CPU and room.

    \b
    edgekit doctor
    edgekit doctor --device pi
    """
    from edgekit import doctor as checkup
    from edgekit.report import answers

    there = described(device, config)
    if clean and there is None:
        raise click.UsageError("--clean goes with --device")
    if there is None:
        checks = checkup.diagnose(Path())
    else:
        from edgekit.device_doctor import diagnose

        checks = diagnose(there, clean)
    code = checkup.exit_code(checks)
    answer(as_json, {"exit_code": code, "checks": checks}, lambda: answers.doctor(checks, device))
    sys.exit(code)


def main() -> None:
    """The ``edgekit`` program."""
    import gc

    try:
        cli(prog_name="edgekit")
    finally:
        gc.freeze()  # or leaving looks through all of torch once more, for half a second


if __name__ == "__main__":
    main()
