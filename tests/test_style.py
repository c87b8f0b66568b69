"""The budgets of the house style, the layering of the design, and what an import costs, read from the source itself."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "edgekit"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = [*MODULES, *sorted((ROOT / "benchmarks").rglob("*.py")), *sorted((ROOT / "examples").rglob("*.py"))]
FUNCTION_LINES, FILE_LINES, PARAMETERS = 60, 400, 6
LINES_OF = {"edgekit/agent.py": 500}  # one file goes to a device, with all that it needs
MEDIAN_LINES = 10
IMPORT_SECONDS = 0.5
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}

# Who may import what; a test that finds an edge which is not here is a change of the design.
ONLY = {
    # frontends/__init__.py asks whether torch is there, so that its absence is said in one line.
    "torch": ("edgekit/frontends/torch.py", "edgekit/frontends/__init__.py", "edgekit/compress/"),
    "safetensors": ("edgekit/frontends/torch.py", "edgekit/compress/"),
    "ai_edge_litert.schema_py_generated": ("edgekit/emitters/tflite_bytes.py",),
    "tensorflow": (),
}
NEVER = {
    "edgekit/ops/": ("edgekit.emitters.tflite", "edgekit.emitters.tflite_bytes", "edgekit.emitters.onnx_qdq"),
    "edgekit/quant/": ("edgekit.emitters",),
    "edgekit/report/": ("edgekit.build", "edgekit.emitters", "edgekit.frontends", "edgekit.cli"),
    "edgekit/runtimes/": ("edgekit.emitters", "edgekit.quant", "edgekit.report"),
    "edgekit/audit/": ("edgekit.quant", "edgekit.frontends", "edgekit.build"),
}
# Where signatures are the ONNX schema's.
SCHEMAS = (
    "edgekit/ops/",
    *(f"edgekit/compress/{name}.py" for name in ("functions", "indexing", "moves", "recurrent", "windows")),
)
STANDS_ALONE = ("edgekit/agent.py", "edgekit/errors.py", "edgekit/transports/far_end.py")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef, op: bool) -> int:
    """How many a caller gives. An op's keyword-only attributes and leading ``tfl`` are the ONNX schema's, not ours."""
    positional = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
    if positional and positional[0] in (("self", "cls", "tfl") if op else ("self", "cls")):
        positional = positional[1:]
    return len(positional) + (0 if op else len(node.args.kwonlyargs))


def imports(path: Path, typing_only: bool = True) -> set[str]:
    """Every module that a file imports, inside functions too; ``from a import b`` counts as a and as a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set() if typing_only else {id(n) for branch in type_checking(tree) for n in ast.walk(branch)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def type_checking(tree: ast.AST) -> Iterator[ast.If]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield node


def within(module: str, banned: str) -> bool:
    return module == banned or module.startswith(banned + ".")


@pytest.mark.parametrize("path", PROGRAMS, ids=name_of)
def test_a_file_keeps_its_budgets(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    most = LINES_OF.get(name_of(path), FILE_LINES)
    assert lines <= most, f"{name_of(path)} has {lines} lines, {most} at most"
    op = name_of(path).startswith(SCHEMAS)
    for node in functions(path):
        at = f"{name_of(path)}:{node.lineno} {node.name}"
        assert length(node) <= FUNCTION_LINES, f"{at} has {length(node)} lines, {FUNCTION_LINES} at most"
        count = parameters(node, op)
        assert count <= PARAMETERS, f"{at} has {count} parameters, {PARAMETERS} at most"


def test_half_of_all_functions_are_short() -> None:
    lengths = sorted(length(node) for path in MODULES for node in functions(path))
    assert lengths[len(lengths) // 2] <= MEDIAN_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    name = name_of(path)
    found = imports(path)
    for banned, allowed in ONLY.items():
        if not name.startswith(allowed or ("nowhere",)):
            assert not [module for module in found if within(module, banned)], f"{name} may not import {banned}"
    for layer, banned_modules in NEVER.items():
        if name.startswith(layer):
            bad = [module for module in found for banned in banned_modules if within(module, banned)]
            assert not bad, f"{name} may not import {', '.join(sorted(bad))}"
    if name in STANDS_ALONE:
        assert not [module for module in found if within(module, "edgekit")], f"{name} stands alone"


def test_the_layers_that_are_watched_are_there() -> None:
    for layer in NEVER:
        assert list((ROOT / layer).glob("*.py")), f"{layer} is gone: the rule for it watches nothing"
    assert imports(PACKAGE / "frontends" / "torch.py") >= {"torch"}
    assert "ai_edge_litert.schema_py_generated" in " ".join(imports(PACKAGE / "emitters" / "tflite_bytes.py"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_named_after_what_it_is(path: Path) -> None:
    assert not {*path.relative_to(ROOT).parts[:-1], path.stem} & FORBIDDEN_NAMES


@pytest.mark.parametrize("path", PROGRAMS, ids=name_of)
def test_no_error_is_swallowed_whole(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            assert caught not in ("", "Exception", "BaseException"), (
                f"{name_of(path)}:{node.lineno} catches {caught or 'all'}"
            )


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_is_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert path.stem == "__main__" or ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name_of(path)}:{node.lineno} {node.name} has no docstring"


COMMANDS = {
    "import": [sys.executable, "-c", "import edgekit"],
    "help": [sys.executable, "-m", "edgekit", "--help"],
    "version": [sys.executable, "-m", "edgekit", "--version"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_starting_is_quick(command: list[str]) -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < IMPORT_SECONDS, f"the best of {len(seconds)} took {min(seconds):.2f} s"


@pytest.mark.parametrize(
    "code", ["import edgekit", "import edgekit.cli", "from edgekit import load_project, load_target"]
)
def test_starting_imports_neither_torch_nor_a_runtime(code: str) -> None:
    heavy = ["torch", "onnxruntime", "ai_edge_litert", "onnx", "onnx_ir", "numpy"]
    script = f"{code}\nimport sys, json; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT)
    assert json.loads(done.stdout) == []


def test_the_public_names_are_all_there() -> None:
    import edgekit

    assert all(getattr(edgekit, name) is not None for name in edgekit.__all__)
    assert set(edgekit.__all__) <= set(dir(edgekit))
    with pytest.raises(AttributeError, match="module 'edgekit' has no attribute 'nonsense'"):
        edgekit.nonsense  # noqa: B018
