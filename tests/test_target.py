"""Target profiles: every shipped one loads, a user's own goes first, and each mistake gets one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import ConfigError, TargetError
from edgekit.target import Target, list_targets, load_target, read_target

DEVICES = ("raspberry-pi-4", "raspberry-pi-5", "raspberry-pi-zero-2w", "android-arm64", "linux-x86_64")
SHIPPED = (
    "microcontroller-tflm",
    *(f"{device}-{runtime}" for device in DEVICES for runtime in ("litert", "onnxruntime")),
)
GOOD = 'description = "d"\narchitecture = "arm64"\ncores = 2\nram = "1 GiB"\nruntime = "litert"\n'


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_loads(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.description
    assert target.format == ("onnx" if name.endswith("onnxruntime") else "tflite")
    assert target.artifact_name == f"model.{target.format}"


def test_the_shipped_profiles_are_these() -> None:
    assert set(list_targets()) == set(SHIPPED)


def test_activations_follow_what_the_runtime_runs_in_integers() -> None:
    assert {load_target(n).activations for n in SHIPPED if "arm64" in n or "raspberry" in n} == {"int8"}
    assert load_target("linux-x86_64-onnxruntime").activations == "uint8"
    assert load_target("linux-x86_64-litert").activations == "int8"


def test_a_microcontroller_is_full_integer_with_budgets() -> None:
    target = load_target("microcontroller-tflm")
    assert target.precisions == ("int8",)
    assert target.flash_bytes == 512 * 1024
    assert target.arena_bytes == 160 * 1024
    assert not target.per_channel_fully_connected
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "SOFTMAX"} <= set(target.ops)


def test_op_names_are_tflite_builtins() -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    assert all(hasattr(schema.BuiltinOperator, op) for op in load_target("microcontroller-tflm").ops)


def test_facts_as_json_hold_the_format() -> None:
    facts = load_target("raspberry-pi-4-litert").to_json()
    assert facts["format"] == "tflite"
    assert facts["ram_bytes"] == 2**30


def test_an_unknown_target_gets_near_misses() -> None:
    with pytest.raises(TargetError, match="unknown target 'raspbery-pi-4-litert'; did you mean raspberry-pi-4-litert"):
        load_target("raspbery-pi-4-litert")
    with pytest.raises(TargetError, match=f"`edgekit targets` lists the {len(SHIPPED)} that are known"):
        load_target("zzz")


def test_a_projects_own_profile_is_found_first(tmp_path: Path) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "raspberry-pi-4-litert.toml").write_text(GOOD.replace('"d"', '"ours"'))
    (tmp_path / "targets" / "board.toml").write_text(GOOD)
    assert load_target("raspberry-pi-4-litert", tmp_path).description == "ours"
    assert load_target("board", tmp_path) == Target("board", "d", "arm64", 2, 2**30, "litert")
    assert set(list_targets(tmp_path)) == {*SHIPPED, "board"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            GOOD + "corse = 4",
            r"board.toml:corse: unknown key; did you mean cores\? accepted: activations, architecture",
        ),
        (GOOD.replace("cores = 2", ""), "board.toml:cores: missing"),
        (
            GOOD.replace("litert", "litret"),
            r"runtime: 'litret' is not one of litert, tflm, onnxruntime; did you mean litert",
        ),
        (GOOD.replace("1 GiB", "1 gig"), r'ram: \'1 gig\' was given, a size such as "320 KB" is needed'),
        (GOOD + "threads = 8", "threads: 8 was given, the device has 2 cores"),
        (
            GOOD + 'activations = "uint8"',
            "activations: uint8 was given; the LiteRT 8-bit specification knows int8 only",
        ),
        (GOOD + "precisions = []", "precisions: an empty list was given"),
        (GOOD + 'sparse = true\nops = ["CONV_2D"]', "sparse: true was given, but ops have no DENSIFY"),
        (GOOD + 'per_channel_fully_connected = "yes"', "'yes' was given, true or false is needed"),
        ("x =", "board.toml: not valid TOML"),
    ],
)
def test_a_bad_profile_names_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_target(path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
