"""Writes the pages of ``docs/`` that the code already knows: ``python docs/generate.py [PAGE ...]``.

``tests/test_docs.py`` fails when a page is not what this writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
from onnx.defs import get_schema

DOCS = Path(__file__).resolve().parent
EXACT = 100  # dB, as ``tests/op_run.py`` writes it
NOTE = "<!-- written by docs/generate.py; do not edit -->"


def cli() -> str:
    """Every command with its arguments and options, from click."""
    from edgekit.cli import cli as group

    context = click.Context(group, info_name="edgekit", **group.context_settings)
    pages = [f"{NOTE}\n\n# Command line\n\n{_prose(group.help)}", _exit_codes(group), JSON_NOTE]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        pages.append(_command(command, click.Context(command, info_name=name, parent=context)))
    return "\n\n".join(pages) + "\n"


JSON_NOTE = """\
With `--json` a command prints exactly one JSON object on stdout ([what is in it](report-schema.md#other-commands));
progress and errors go to stderr. Progress is bars on a terminal and plain lines elsewhere. An error is one line,
`error: ...`; what a target cannot express has a line each. Interrupting ends with 130."""


def _exit_codes(group: click.Group) -> str:
    lines = [line.split(maxsplit=1) for line in (group.epilog or "").splitlines() if line.strip()[:1].isdigit()]
    rows = [f"| {code} | {meaning} |" for code, meaning in lines]
    return "\n".join(["| exit code | meaning |", "| --: | :-- |", *rows])


def _command(command: click.Command, context: click.Context) -> str:
    usage = " ".join(["edgekit", str(context.info_name), *command.collect_usage_pieces(context)])
    parts = [f"## {context.info_name}", f"```\n{usage}\n```", _prose(command.help), _options(command, context)]
    return "\n\n".join(parts)


def _options(command: click.Command, context: click.Context) -> str:
    options = [param for param in command.get_params(context) if isinstance(param, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    rows = [f"| `{name.replace('|', '/')}` | {' '.join(said.split()).replace('|', '/')} |" for name, said in records]
    return "\n".join(["| option | meaning |", "| :-- | :-- |", *rows])


def _prose(help_text: str | None) -> str:
    """A click help text as Markdown: a paragraph after ``\\b`` is an example."""
    paragraphs = [part.strip() for part in (help_text or "").split("\n\n")]
    examples = [_dedented(part.removeprefix("\b\n")) for part in paragraphs if part.startswith("\b")]
    said = [" ".join(part.split()) for part in paragraphs if not part.startswith("\b")]
    return "\n\n".join([*said, *(f"```\n{example}\n```" for example in examples)])


def errors() -> str:
    """The error tree, from the docstring that draws it and those of the classes."""
    from edgekit import errors as module

    first, *rest = (module.__doc__ or "").strip().split("\n\n")
    drawing, closing = rest[0], "\n\n".join(rest[1:])
    types = [item for item in vars(module).values() if isinstance(item, type)]
    classes = [item for item in types if issubclass(item, module.EdgekitError)]
    rows = [f"| `{item.__name__}` | {item.exit_code} | {_first_line(item)} |" for item in classes]
    table = "\n".join(["| error | exit code | meaning |", "| :-- | --: | :-- |", *rows])
    tree = f"```\n{_dedented(drawing)}\n```"
    return "\n\n".join([f"{NOTE}\n\n# Errors", " ".join(first.split()), tree, " ".join(closing.split()), table]) + "\n"


def _first_line(item: type) -> str:
    return (item.__doc__ or "").strip().splitlines()[0]


def _dedented(block: str) -> str:
    lines = block.splitlines()
    depth = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[depth:].rstrip() for line in lines)


SCALES = {"OBSERVED": "own", "SHARED": "shared", "FIXED": "fixed", "NONE": "float"}
OPS_NOTE = """\
Every op that edgekit lowers, as it is declared in `edgekit/ops`, and what came of its cases (`tests/op_cases.py`) in
both artifacts. BatchNormalization, Dropout, CastLike, Einsum, LRN, LpPool, GlobalLpPool, Trilu, ReduceL1, ReduceL2,
ReduceSumSquare, ReduceLogSum, ReduceLogSumExp, and Attention, RMSNormalization, RotaryEmbedding and Swish of newer
opsets are written as these before, and what depends on shapes or constants alone is folded (Range, Shape, Size,
ConstantOfShape, If). To add an op: [add-an-op.md](add-an-op.md).

- **since**: the opset whose schema the declaration follows; older files are converted.
- **float**, **int8**, **int16** (`float32`, `int8`, `int16x8`): *yes* where nothing is lost. Else the signal-to-noise
  ratio of the worst case, TFLite in LiteRT or ONNX in ONNX Runtime, and by how many integers the two differ at most.
  Cases are small, so this shows what a kernel does, not what a network loses. *w*: int8 weights alone (`dynamic-int8`);
  *float*: the op itself is never in integers. *ONNX*: TFLite has to refuse all cases, and the ONNX artifact has them;
  *part*: it has to refuse some.
- **limits**: what is refused before any work starts, and why: by the lowering to TFLite at once, then by what cases met
  in a precision, in brackets in which of them. An op may be written with another, then named. What int8 does by a
  table of 256 entries, int16 cannot.
- **scales** of int8 activations: *own*, each from its calibrated range; *shared*, one for inputs and outputs; *fixed*,
  the output's by the specification; *float*, never quantized: refused where float is not allowed.
- **layout**: in which orders of axes its tensors may be stored ([layout.md](layout.md)).
{layouts}"""
OUTCOMES = DOCS.parent / "tests" / "golden" / "ops.json"
COLUMNS = ("op", "since", "float", "int8", "int16", "limits", "scales", "layout", "TFLite operators")
BITS = {"float32": "float", "dynamic-int8": "int8 weights", "int8": "int8", "int16x8": "int16"}
Outcomes = dict[str, dict[str, dict[str, Any]]]


def ops() -> str:
    """Every declared op, from its declaration and from what came of its cases (``tests/op_run.py``)."""
    from edgekit.graph import OPSET
    from edgekit.ops import OPS, Layout

    outcomes: Outcomes = json.loads(OUTCOMES.read_text(encoding="utf-8"))
    rows = []
    for name in sorted({*OPS, *(case.partition("-")[0] for case in outcomes)}):
        cases = {case: result for case, result in outcomes.items() if case.partition("-")[0] == name}
        found = OPS.get(name)
        said, takes = lowering(found.lower) if found else ("written as other ops", "")
        limits = "; ".join(filter(None, [takes, *_refusals(name, cases)]))
        scales, layout = (SCALES[found.quant.scale.name], _short(found.layout)) if found else ("", "")
        since = found.since if found else get_schema(name, OPSET).since_version
        rows.append([name, str(since), *_outcomes(cases, scales == "float"), limits, scales, layout, said])
    head = [COLUMNS, (":--", "--:", *[":--"] * (len(COLUMNS) - 2))]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [*head, *rows])
    layouts = "\n".join(f"  - *{_short(layout)}*: {layout.value}" for layout in Layout)
    return f"{NOTE}\n\n# Ops\n\n{OPS_NOTE.format(layouts=layouts)}\n\n{table}\n"


def lowering(lower: Callable[..., None]) -> tuple[str, str]:
    """Which operators a lowering's docstring says that it writes, and what it says after ``Refused:``."""
    text = " ".join((lower.__doc__ or "").replace("``", "`").split("\n\n")[0].split())
    refused = [part for part in (lower.__doc__ or "").split("\n\n") if part.strip().startswith("Refused: ")]
    takes = " ".join(refused[0].split()).removeprefix("Refused: ") if refused else ""
    return text.rstrip("."), takes.rstrip(".")


def _short(layout: Any) -> str:
    return "NHWC" if layout.name == "NHWC" else str(layout.name).lower()


def _outcomes(cases: Outcomes, real: bool) -> Iterator[str]:
    """The cells of the precisions; ``real``: the op stays in float in all of them."""
    weights = _outcome(cases, "dynamic-int8")
    yield _outcome(cases, "float32")
    yield "float, " * real + _outcome(cases, "int8") + (f", w {weights}" if weights else "")
    yield "float, " * real + _outcome(cases, "int16x8")


def _outcome(cases: Outcomes, precision: str) -> str:
    """A cell: the worst of the cases that both artifacts can express, else of those that ONNX can."""
    found = [result[precision] for result in cases.values() if precision in result]
    works = [one for one in found if "refused" not in one]
    measured = [one["snr"] for one in works or found if "snr" in one]
    if not measured:
        return ""
    least, steps = min(measured), max((one.get("steps", 0) for one in works), default=0)
    said = ("yes" if precision == "float32" else "exact") if least >= EXACT else f"{least} dB"
    kept = "" if len(works) == len(found) else "part " if works else "ONNX "
    return f"{kept}{said}{f', ±{steps}' if steps else ''}"


def _refusals(name: str, cases: Outcomes) -> Iterator[str]:
    """Why cases are refused: by reason, with the precisions; and which cases, where others are not."""
    met: dict[tuple[str, str], list[str]] = {}
    for precision, bits in BITS.items():
        said = {
            case: result[precision]["refused"]
            for case, result in cases.items()
            if "refused" in result.get(precision, {})
        }
        for reason in dict.fromkeys(said.values()):
            which = [case.partition("-")[2] or "plain" for case in said if said[case] == reason]
            where = "" if len(which) == len(cases) else f" ({', '.join(which)})"
            met.setdefault((where, reason.removeprefix(f"{name}: ").removeprefix(f"{name} ")), []).append(bits)
    yield from (f"{', '.join(bits)}{where}: {reason}" for (where, reason), bits in met.items())


COMPRESSION = """\
`[[compress]]` tables in `edgekit.toml` are steps, run in the order written on the float network, before anything is
calibrated. Each acts on the one graph, so it does not matter whether the model came from torch or as ONNX, and leaves a
graph that the rest of the road takes. The report says of each step what the network weighs, computes and scores after
it; a step that was finished before is reused as long as nothing that it depends on has changed, so that a changed gate
trains nothing anew. What trains is torch, `pip install 'edgekit[torch]'`.

```toml
[[compress]]
method = "channel-prune"
macs = 0.5
data = "train.npz"
epochs = 10
keep_if = "latency"

[[compress]]
method = "quantize-aware"
data = "train.npz"
epochs = 5
```

| method | makes smaller | pays in |
| :-- | :-- | :-- |
| `channel-prune` | layers: multiply-adds, parameters, memory | latency and size on every runtime |
| `low-rank` | layers, each in two to four | latency where layers are wide, size |
| `prune` | nothing by itself: weights become zero | the compressed size; TFLite files with sparse tensors |
| `cluster` | nothing by itself: weights share values | the compressed size |
| `distill`, `fine-tune` | nothing | accuracy |
| `quantize-aware` | nothing; it comes last, and int8 artifacts hold its scales as they are | accuracy of int8 |

Zeros and shared values of earlier steps stay in the later ones and in the artifact's integers, save in two: `low-rank`
writes new weights, and `prune` chooses its zeros anew and lets values that were shared part while it trains. Let these
come first. Because zeros and shared values shrink no dense file, the report says what every step's constants and the
artifact weigh packed: as gzip, and with weights in a Huffman code.

Every method also has `data`: what trains, in any form that [calibration data](calibration-data.md) has, with labels
where the method wants them; without it the calibration samples train. And `keep_if = "latency"`: artifacts from before
and after the step are timed in turns on this machine, and the step is taken back where one is not really faster.

In Python, `edgekit.to_torch(graph)` is the graph as an `nn.Module` for a training loop of your own (any batch size,
parameters by the names they had, BatchNormalization trains), and `edgekit.from_torch(module)` the graph again. All ops
of [the table](ops.md) have a form in torch but NonMaxSuppression, which chooses and computes nothing, a Resize of a
part of an image, and a Resize that keeps the aspect ratio."""


def compression() -> str:
    """Every method of ``[[compress]]``, from its declaration; the keys of training, which most have, only once."""
    from edgekit.compress.methods import METHODS
    from edgekit.compress.training import Training

    pages = [f"{NOTE}\n\n# Compression\n\n{COMPRESSION}"]
    for name, found in sorted(METHODS.items()):
        trains = Training in get_type_hints(found.settings).values()
        said = [(found.run.__doc__ or "").split("\n\n")[0], *(found.settings.__doc__ or "").split("\n\n")[1:]]
        said += ["It trains: see [training](#training)."] * trains
        pages.append(_method(name, said, found.settings))
    pages.append(_method("training", (Training.__doc__ or "").split("\n\n"), Training))
    return "\n\n".join(pages) + "\n"


def _method(title: str, said: Iterable[str], settings: type) -> str:
    """A section on a dataclass of settings: what is said of it, and its own keys."""
    rows = [f"| `{key}` | {accepted} | {default} |" for key, accepted, default in _keys(settings)]
    table = ["| key | accepted | without it |", "| :-- | :-- | :-- |", *rows] if rows else []
    parts = [f"## {title}", *(" ".join(part.split()) for part in said), "\n".join(table)]
    return "\n\n".join(filter(None, parts)).replace("``", "`")


def _keys(settings: type) -> Iterator[tuple[str, str, str]]:
    """Each key, what it takes, and its default."""
    hints = get_type_hints(settings)
    for item in fields(settings):
        kind = hints[item.name]
        if is_dataclass(kind):
            continue
        arms = [arm for arm in get_args(kind) if arm is not type(None)] if get_origin(kind) is not tuple else []
        if arms and get_origin(kind) is Literal:
            accepted = ", ".join(f'`"{arm}"`' for arm in arms)
        else:
            accepted = getattr(arms[0] if arms else kind, "__name__", str(kind))
        accepted = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false",
                    "tuple": "a list"}.get(accepted, accepted)  # fmt: skip
        default = "" if item.default is MISSING or item.default is None else f"`{json.dumps(item.default)}`"
        yield item.name, accepted, default


PAGES: dict[str, Callable[[], str]] = {"cli": cli, "errors": errors, "ops": ops, "compression": compression}
"""The generated pages: ``docs/NAME.md``."""


def main(names: Iterable[str]) -> int:
    """Write the named pages, or all of them."""
    for name in list(names) or PAGES:
        if name not in PAGES:
            print(f"no such page: {name}; there are {', '.join(PAGES)}", file=sys.stderr)
            return 2
        (DOCS / f"{name}.md").write_text(PAGES[name](), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    sys.exit(main(sys.argv[1:]))
