"""What every printed form of a report says, as rows of text: the forms only differ in how they set it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.gate import elsewhere, status
from edgekit.measure import Measurement
from edgekit.report import layers, text
from edgekit.report.model import (
    Compression,
    Evaluation,
    Fidelity,
    Finding,
    Report,
    TensorFidelity,
    Verdict,
)

Json = Mapping[str, Any]
CAUSE = "cause: "
"""Before the cause of lost accuracy in the label of a line."""


@dataclass(frozen=True)
class Row:
    """One quantity of the source model in float32 and of the artifact. ``share`` = artifact / float, for a bar."""

    name: str
    source: str
    artifact: str
    change: str
    share: float | None = None


def headline(report: Report) -> str:
    """One sentence: what was built, and whether the gates hold."""
    return f"{name(report)}: {verdict(report)}"


def name(report: Report) -> str:
    """The model and the target."""
    return f"{model_name(report)} for {target_name(report)}"


def model_name(report: Report) -> str:
    """The last part of the source: ``models.resnet:resnet20`` -> ``resnet20``."""
    source = report.model.source
    return Path(source).name if source.endswith((".onnx", ".pt2")) else source.rpartition(":")[2]


def target_name(report: Report) -> str:
    """The target's name."""
    return str(report.target.get("name", "unknown target"))


def verdict(report: Report) -> str:
    """How the gates stand, in words."""
    return verdict_words(report.gates)


def verdict_words(gates: Sequence[Verdict]) -> str:
    """The same of any gates: ``1 of 3 gates failed``."""
    word = status(gates)
    total = len(gates)
    if word == "no gates":
        return "no gates are set"
    if word == "pass":
        return ("its gate holds", "both gates hold", f"all {total} gates hold")[min(total, 3) - 1]
    these = sum(gate.status == word for gate in gates)
    found = "failed" if word == "fail" else "inconclusive"
    if total == 1:
        return "its gate failed" if word == "fail" else "its gate is inconclusive"
    return f"{these} of {total} gates {found}"


def comparison(report: Report) -> list[Row]:
    """Size, metric, latency and memory: float, artifact, change. What was not measured has no row."""
    found = [*_size(report), *accuracy(report.evaluation), *noise(report.fidelity)]
    return [*found, *_latencies(report), *_memory(report)]


def _size(report: Report) -> list[Row]:
    before, after = report.model.float_bytes, report.artifact.bytes
    return [Row("size", text.size(before), text.size(after), smaller(before, after), _share(before, after))]


def accuracy(found: Evaluation | None) -> list[Row]:
    """The metric, and how often the answers agree."""
    if found is None:
        return []
    what = f"{text.change(-found.drop)}, {text.plural(found.samples, 'sample')}"
    rows = [Row(found.metric, text.percent(found.float_value), text.percent(found.artifact_value), what)]
    if found.agreement is not None:
        rows.append(Row("agreement", "", text.percent(found.agreement), "of samples: the same answer as in float"))
    return rows


def noise(found: Fidelity | None) -> list[Row]:
    """The signal-to-noise ratio of every output."""
    if found is None:
        return []
    what = f"signal to noise, {text.plural(found.samples, 'sample')}"
    several = len(found.outputs) > 1
    return [
        Row(f"snr {output}" if several else "snr", "", text.decibels(value), what)
        for output, value in found.outputs.items()
    ]


_LATENCIES = (("latency p50", "p50_ms"), ("latency p90", "p90_ms"), ("latency p99", "p99_ms"))
_COLD_START = ("cold start", "cold_start_ms")


def _latencies(report: Report) -> list[Row]:
    return [row for label, field in (*_LATENCIES, _COLD_START) for row in _timing(report, label, field, faster)]


def _memory(report: Report) -> list[Row]:
    process = _timing(report, "peak memory", "peak_memory_bytes", smaller, text.size)
    return [*process, *_timing(report, "model memory", "model_memory_bytes", smaller, text.size)]


def _timing(
    report: Report,
    label: str,
    field: str,
    words: Callable[[float, float], str],
    show: Callable[[float], str] = text.milliseconds,
) -> list[Row]:
    after = getattr(report.latency, field, None)
    if after is None:
        return []
    before = getattr(report.float_latency, field, None)
    if before is None:
        return [Row(label, "", show(after), "")]
    return [Row(label, show(before), show(after), words(before, after), _share(before, after))]


def smaller(before: float, after: float) -> str:
    """``3.61x smaller``."""
    return _times(before, after, "smaller", "larger")


def faster(before: float, after: float) -> str:
    """``3.09x faster``."""
    return _times(before, after, "faster", "slower")


def _times(before: float, after: float, less: str, more: str) -> str:
    if before <= 0 or after <= 0:
        return ""
    if abs(before - after) <= 0.005 * before:
        return "no change"
    return f"{text.ratio(before / after)} {less}" if after < before else f"{text.ratio(after / before)} {more}"


def _share(before: float, after: float) -> float | None:
    return after / before if before > 0 else None


def _timing_note(report: Report) -> str:
    found = report.latency
    if found is None:
        return ""
    foreign = f" ({elsewhere(report)})" if elsewhere(report) else ""
    return f"{how_timed(found)}{foreign}{_float_runtime(report)}"


def how_timed(found: Measurement) -> str:
    """How sure the median is, from how many runs, and what ran it where."""
    low, high = found.p50_interval_ms
    span = f"p50 within {text.milliseconds(low)} to {text.milliseconds(high)}, {text.plural(found.runs, 'run')}"
    return f"{span}, {_runtime(found)}, {text.plural(found.threads, 'thread')}, on {layers.place(found.machine)}"


_STATES = (
    ("governor", "governor", "{}"),
    ("clock", "mhz", "{:.0f} MHz"),
    ("temperature", "temperature_c", "{:.0f} C"),
    ("load", "load_average", "{:.1f}"),
    ("throttling flags", "throttled", "{:#x}"),
    ("times throttled", "throttle_count", "{}"),
)


def states(found: Measurement | None) -> str:
    """``governor ondemand, ondemand; clock 1500 MHz, 1400 MHz``: the machine before and after, where it says so."""
    if found is None:
        return ""
    both = [(name, found.before.get(key), found.after.get(key), show) for name, key, show in _STATES]
    said = [(name, [show.format(value) for value in pair if value is not None]) for name, *pair, show in both]
    return "; ".join(f"{name} {', '.join(values)}" for name, values in said if values)


def _runtime(found: Measurement) -> str:
    version = found.runtime_version
    return version if " " in version else f"{found.runtime} {version}"


def _float_runtime(report: Report) -> str:
    """Which runtime timed the float model, when it is another one."""
    found, other = report.latency, report.float_latency
    if found is None or other is None or other.runtime == found.runtime:
        return ""
    return f"; float with {_runtime(other)}"


def audit_lines(audit: Json) -> list[str]:
    """What the artifact's bytes say of its integers."""
    ops = audit.get("ops")
    if not ops:
        return ["not audited" if ops is None else "nothing to compute"]
    integer = [op for op in ops if op["integer"]]
    lines = [f"{len(integer):,} of {text.plural(len(ops), 'op')} in integers ({text.percent(len(integer) / len(ops))})"]
    macs = sum(op["macs"] for op in ops)
    if macs:
        done = sum(op["macs"] for op in integer)
        lines.append(f"{text.percent(done / macs)} of {text.count(macs)} multiply-adds in integers")
    left = [op["op"] for op in ops if not op["integer"]]
    if left:
        lines.append(f"left in float: {tally(left)}")
    if audit.get("transposes"):
        lines.append(text.plural(len(audit["transposes"]), "transpose"))
    return lines


def tally(words: Sequence[str]) -> str:
    """``3 Softmax, 1 Gelu``: the most frequent first."""
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    return ", ".join(f"{counts[word]} {word}" for word in sorted(counts, key=lambda word: (-counts[word], word)))


def ports(contract: Json) -> list[tuple[str, str, str, str, str]]:
    """The inputs and outputs of a contract: (side, name, dtype, shape, how a value is stored)."""
    sides = (("input", "inputs"), ("output", "outputs"))
    return [_port(side, port) for side, key in sides for port in contract.get(key, ())]


def _port(side: str, port: Json) -> tuple[str, str, str, str, str]:
    shape = " x ".join(str(length) for length in port["shape"])
    layout = f" {port['layout']}" if port.get("layout") else ""
    scale, zero_point = port.get("scale"), port.get("zero_point")
    stored = "" if scale is None else f"scale {float(scale):.6g}, zero point {zero_point}"
    return side, str(port["name"]), str(port["dtype"]), shape + layout, stored


def worst_tensors(fidelity: Fidelity | None, count: int) -> list[TensorFidelity]:
    """The tensors that lost most, worst first; those without any error are left out."""
    tensors = fidelity.tensors if fidelity else ()
    lossy = [tensor for tensor in tensors if tensor.snr_db != float("inf")]
    return sorted(lossy, key=lambda tensor: tensor.snr_db)[:count]


def lines(report: Report) -> list[tuple[str, str]]:
    """What one line each can say: timing, parity, calibration, model, source check."""
    found = [
        ("timing", _timing_note(report)),
        ("before, after", states(report.latency)),
        ("instructions", _instructions(report)),
        ("layers", layers.trust(report.layer_times)[0] if report.layer_times else ""),
        ("packed", _packed(report)),
        ("parity", _parity(report)),
        ("calibration", _calibration(report)),
        ("model", _model(report)),
        ("source check", _source_check(report)),
    ]
    steps = [(step.method, _facts_of(step)) for step in report.compression]
    causes = [(f"{CAUSE}{finding.cause}", cause(finding)) for finding in report.findings]
    return [(label, line) for label, line in (*found, *steps, *causes) if line]


def cause(finding: Finding) -> str:
    """``at conv1, conv2 (alone_db 12.1): what to do``."""
    figures = ", ".join(f"{name} {value:.4g}" for name, value in finding.evidence.items())
    where = f"at {', '.join(finding.tensors[:3])}{', ...' * (len(finding.tensors) > 3)} " if finding.tensors else ""
    return f"{where}({figures}): {finding.fix}; more in {finding.docs}"


def _instructions(report: Report) -> str:
    """How many one inference takes, and what counted them."""
    found = report.instructions
    if found is None:
        return ""
    return f"{text.count(found.count)} an inference, by {found.counter} on {found.cpu}, {found.runtime_version}"


def _packed(report: Report) -> str:
    """What the file takes in an archive, and where a decoder knows its weights' frequencies."""
    found = report.artifact.packed
    if not found:
        return ""
    return f"{text.size(found['gzip'])} as gzip, {text.size(found['coded'])} with int8 weights in a Huffman code"


def _facts_of(step: Compression) -> str:
    """``epochs 10, loss 0.21``: what a method says of itself in words or single numbers."""
    single = {key: value for key, value in step.facts.items() if isinstance(value, int | float | str)}
    return ", ".join(_fact(key, value) for key, value in single.items())


def _model(report: Report) -> str:
    facts = report.model
    parameters = f"{text.count(facts.parameters)} parameters"
    return f"{facts.source}, {parameters}, {text.count(facts.macs)} multiply-adds, opset {facts.opset}"


def _parity(report: Report) -> str:
    found = report.parity
    if found is None:
        return ""
    same = f"{text.percent(found.agreement)} the same answer as {found.other}"
    steps = f"{text.percent(found.share_equal)} of values equal, others within {text.plural(found.max_steps, 'step')}"
    return f"{same}; {steps} ({text.plural(found.samples, 'sample')})"


def _source_check(report: Report) -> str:
    if not report.source_check:
        return ""
    return ", ".join(_fact(key, value) for key, value in report.source_check.items())


def _calibration(report: Report) -> str:
    found = report.calibration
    if found is None:
        return ""
    counts = Counter(found.methods.values()).most_common()
    drawn = f" ({', '.join(f'{count} {name}' for name, count in counts)})" if counts else ""
    return f"{text.plural(found.samples, 'sample')} of {found.data}, {found.range} ranges{drawn}"


def _fact(key: str, value: Any) -> str:
    if key.endswith("_db"):
        return f"{key.removesuffix('_db').replace('_', ' ')} {text.decibels(float(value))}"
    return f"{key.replace('_', ' ')} {f'{value:.4g}' if isinstance(value, float) else value}"


def stages(report: Report) -> str:
    """``load 1.2 s, calibrate 3.0 s (reused); 4.2 s in all``."""
    if not report.stages:
        return ""
    each = ", ".join(
        f"{stage.name} {'reused' if stage.cached else text.seconds(stage.seconds)}" for stage in report.stages
    )
    return f"{each}; {text.seconds(sum(stage.seconds for stage in report.stages))} in all"


def files(report: Report) -> str:
    """The folder of the build."""
    return str(Path(report.artifact.path).parent)


def short(report: Report) -> tuple[str, str, str, str]:
    """Size, metric, median latency and share of integer ops, for a table of several reports."""
    metric = "" if report.evaluation is None else text.percent(report.evaluation.artifact_value)
    latency = "" if report.latency is None else text.milliseconds(report.latency.p50_ms)
    ops = report.audit.get("ops", [])
    integer = f"{sum(op['integer'] for op in ops)} of {len(ops)}" if ops else ""
    return text.size(report.artifact.bytes), metric, latency, integer


def metric_name(reports: Sequence[Report]) -> str:
    """The metric's name, where one was evaluated."""
    return next((report.evaluation.metric for report in reports if report.evaluation), "metric")


def settings(values: Any) -> str:
    """A mapping as ``key value, key value``; what is not set is left out."""
    if not isinstance(values, Mapping):
        return str(values)
    known = {key: value for key, value in values.items() if value not in (None, "", (), [])}
    return ", ".join(
        f"{key.removesuffix('_bytes')} {text.size(value)}"
        if key.endswith("_bytes") and isinstance(value, int)
        else f"{key} {_setting(value)}"
        for key, value in known.items()
    )


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({settings(value)})"
    if isinstance(value, bool | float):
        return f"{value:.6g}" if isinstance(value, float) else "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
