"""The harness of the zoo, on two networks of its own: one that is built, and one that cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the zoo is made of torch modules")

ROOT = Path(__file__).resolve().parent.parent
PREAMBLE = """
import json, os, signal, sys, time
sys.path.insert(0, "benchmarks")
import torch, zoo, zoo_models
from zoo_models import Entry, Input
torch.set_num_threads(1)

class Inverse(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.det(x)

ZOO = {
    "small": Entry(lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()),
                   {"image": Input("image", (1, 3, 12, 12))}),
    "other": Entry(Inverse, {"matrix": Input("noise", (1, 3, 3))}),
}
zoo_models.__dict__.update(ZOO, ZOO=ZOO)
"""


def answer(script: str) -> Any:
    """What a script prints last, as JSON; it forks, so it has a process of its own."""
    command = [sys.executable, "-c", f"{PREAMBLE}\n{script}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def results() -> Any:
    return answer("print(json.dumps({name: zoo.examined(name) for name in ZOO}))")


def test_a_network_goes_through_every_precision_and_format(results: Any) -> None:
    cases = results["small"]["cases"]
    assert set(cases) == {f"{f} {p}" for f in ("TFLite", "ONNX") for p in ("float32", "dynamic-int8", "int8")}
    assert {case["status"] for case in cases.values()} == {"built"}
    assert min(cases["TFLite float32"]["snr_db"], cases["ONNX float32"]["snr_db"]) > 100
    assert 25 < cases["TFLite int8"]["snr_db"] < 60
    assert "CONV_2D 1" in cases["TFLite int8"]["ops"]
    assert all(case["bytes"] > 500 and case["p50_ms"] > 0 for case in cases.values())


def test_what_cannot_be_built_is_one_line(results: Any) -> None:
    assert results["other"]["status"] == "refused"
    assert "op Det is not supported" in results["other"]["line"]


def test_the_page_counts_and_gives_reasons(results: Any) -> None:
    page = answer(f"results = json.loads({json.dumps(results)!r}); print(json.dumps(zoo.written(results)))")
    assert "| **built and sound** | **1 of 2** |" in page
    assert "| `other` | refused |" in page
    assert "- `other`: node" in page
    missed = answer(f"print(json.dumps(zoo.floors(json.loads({json.dumps(results)!r}))))")
    assert [item["holds"] for item in missed] == [False, False, False, True]


@pytest.mark.parametrize(
    ("work", "line"),
    [
        ("os.kill(os.getpid(), signal.SIGABRT)", "SIGABRT"),
        ("os._exit(3)", "exit status 3"),
        ("time.sleep(60)", "over 1 s"),
        ("[][0]", "IndexError at <string>:"),
    ],
)
def test_a_crash_is_a_result(work: str, line: str) -> None:
    found = answer(f"print(json.dumps(zoo.apart(lambda: {work}, 1)))")
    assert found["status"] == "crashed"
    assert found["line"].startswith(line)


def test_the_page_is_what_the_results_say() -> None:
    page = answer('import shared; print(json.dumps(zoo.written(shared.load("zoo"))))')
    written = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert written == page, "docs/zoo.md is stale: benchmarks/zoo.py writes it"


def test_weights_keep_activations_at_unit_size() -> None:
    script = """
module, example = ZOO["small"]()
with torch.no_grad():
    out = module[:2](torch.cat([zoo_models.tensors(s)[0] for s in ZOO["small"].samples(16, 3)]))
again, _ = ZOO["small"]()
same = all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters()))
print(json.dumps([float(out.std()), same]))
"""
    spread, same = answer(script)
    assert 0.5 < spread < 2
    assert same
