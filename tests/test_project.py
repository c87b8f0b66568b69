"""edgekit.toml: what is read, what a recipe brings, what flags lay over it, and a clear line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import ConfigError
from edgekit.inputs import InputConfig
from edgekit.project import Limits, Project, load_project
from edgekit.recipe import list_recipes, load_recipe
from edgekit.scaffold import scaffold

WHOLE = """
[model]
source = "models.resnet:resnet20"
weights = "resnet20.safetensors"
[model.inputs.image]
shape = [1, 3, 32, 32]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
channels = "BGR"
resize = 40
crop = [32, 32]
artifact_layout = "NCHW"
[calibration]
data = "calib.npz"
samples = 128
range = "percentile"
percentile = 99.9
[evaluation]
data = "test.npz"
metric = "top5"
samples = 1000
labels = ["cat", "dog"]
[[compress]]
method = "channel-prune"
ratio = 0.5
[gates]
size = "320 KB"
accuracy_drop = 0.005
latency_p50 = "4 ms"
[gates.raspberry-pi-4-litert]
size = "300 KiB"
latency_p90 = "900 us"
memory = 1000000
float_ops = 0
snr = 20
agreement = 0.98
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "edgekit.toml"
    path.write_text(text)
    return path


def test_every_section_is_read(tmp_path: Path) -> None:
    project = load_project(write(tmp_path, WHOLE))
    assert (project.model.source, project.model.weights) == ("models.resnet:resnet20", "resnet20.safetensors")
    image = project.model.input("image")
    assert image.shape == (1, 3, 32, 32)
    assert (image.channels, image.resize, image.crop, image.artifact_layout) == ("BGR", (40,), (32, 32), "NCHW")
    assert project.model.input("other") == InputConfig()
    calibration = project.calibration
    assert (calibration.data, calibration.samples, calibration.range) == ("calib.npz", 128, "percentile")
    assert calibration.percentile == 99.9
    assert (project.evaluation.metric, project.evaluation.samples) == ("top5", 1000)
    assert project.evaluation.labels == ("cat", "dog")
    assert project.compress[0]["ratio"] == 0.5
    assert project.folder == tmp_path


def test_a_targets_limits_lie_over_those_for_all(tmp_path: Path) -> None:
    project = load_project(write(tmp_path, WHOLE))
    assert project.limits("elsewhere") == Limits(size_bytes=320_000, accuracy_drop=0.005, latency_p50_ms=4.0)
    assert project.limits("raspberry-pi-4-litert") == Limits(
        size_bytes=300 * 1024,
        accuracy_drop=0.005,
        latency_p50_ms=4.0,
        latency_p90_ms=0.9,
        memory_bytes=1_000_000,
        float_ops=0,
        agreement=0.98,
        snr_db=20.0,
    )


def test_an_empty_file_is_a_project_with_defaults(tmp_path: Path) -> None:
    project = load_project(write(tmp_path, ""))
    assert project.calibration.range == "mse"
    assert project.calibration.samples == 256
    assert project.limits("any") == Limits()


def test_labels_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\n\n dog \n")
    project = load_project(write(tmp_path, '[evaluation]\nlabels = "labels.txt"'))
    assert project.evaluation.labels == ("cat", "dog")


def test_the_scaffold_is_a_valid_project(tmp_path: Path) -> None:
    project = load_project(scaffold(tmp_path))
    assert project.calibration.data == "calib.npz"
    assert project.limits("any").float_ops == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[modle]",
            r"edgekit.toml:modle: unknown key; did you mean model\? accepted: baseline, calibration, compress",
        ),
        ('[model]\nsorce = "a"', r"model.sorce: unknown key; did you mean source\? accepted: inputs, outputs, source"),
        ('[model]\nsource = ""', "model.source: '' was given, a text that is not empty is needed"),
        ("[model]\nsource = 3", "model.source: 3 was given, a text"),
        ("model = 3", "edgekit.toml:model: 3 was given, a table is needed"),
        ("[model.inputs]\nx = 3", "model.inputs.x: 3 was given, a table is needed"),
        (
            "[model.inputs.x]\nshape = [1, 0]",
            r"model.inputs.x.shape: \[1, 0\] was given, a list of whole numbers of at least 1",
        ),
        ("[model.inputs.x]\nshape = 3", "shape: 3 was given, a list of whole numbers"),
        ("[model.inputs.x]\nmaen = [1]", r"model.inputs.x.maen: unknown key; did you mean mean\?"),
        ("[model.inputs.x]\nstd = [0.0]", r"std: \[0.0\] was given, numbers above 0 are needed"),
        ("[model.inputs.x]\nmean = [1, 2]\nstd = [1, 2, 3]", "std: 3 values were given, mean has 2"),
        ('[model.inputs.x]\nmean = ["a"]', "mean: .* a number or a list of numbers is needed"),
        ("[model.inputs.x]\nscale = 0", "scale: 0 was given, a number above 0"),
        ("[model.inputs.x]\nresize = [1, 2, 3]", r"resize: .* a whole number, \[height, width\] or 'input' is needed"),
        ("[model.inputs.x]\ncrop = -3", "crop: -3 was given, a whole number of at least 1"),
        ('[model.inputs.x]\nchannels = "rgb"', "channels: 'rgb' is not one of RGB, BGR, GRAY"),
        (
            '[calibration]\nrange = "mae"',
            r"calibration.range: 'mae' is not one of minmax, moving-average, percentile, entropy",
        ),
        ("[calibration]\nsamples = 0", "calibration.samples: 0 was given, a whole number of at least 1 is needed"),
        ('[calibration]\nweight_range = "max"', r"calibration.weight_range: 'max' is not one of minmax, mse"),
        ("[calibration]\nper_channel = 1", "calibration.per_channel: 1 was given, true or false is needed"),
        ('[calibration]\nrounding = "up"', "calibration.rounding: 'up' is not one of reconstruct, nearest"),
        ("[calibration]\npercentile = 101", "calibration.percentile: 101 was given, a number from 50 to 100"),
        (
            '[calibration]\nrecipe = "cifar"',
            "calibration.recipe: unknown calibration recipe 'cifar'; did you mean cifar10",
        ),
        (
            '[evaluation]\nmetric = "top2"',
            r"evaluation.metric: 'top2' is not one of top1, top5, agreement, module:function; did you mean top",
        ),
        ('[evaluation]\nlabels = "none.txt"', "evaluation.labels: none.txt cannot be read"),
        ("[evaluation]\nlabels = 3", "evaluation.labels: 3 was given, a list of texts"),
        ("[gates]\nlatency_p50 = 4", r'gates.latency_p50: 4 was given, a time such as "4 ms" is needed \(s, ms, us\)'),
        ('[gates]\nsize = "0 KB"', "gates.size: '0 KB' was given, a size"),
        ("[gates]\naccuracy_drop = 5", "gates.accuracy_drop: 5 was given, a number from 0 to 1 is needed"),
        ("[gates]\nsnr = true", "gates.snr: True was given, a number of at least 0"),
        ("[gates.pi]\nsized = 3", r"gates.pi.sized: unknown key; did you mean size\?"),
        ("[gates]\nsized = 3", r"gates.sized: unknown key; did you mean size\?"),
        ("[[compress]]\nratio = 1", r"edgekit.toml:compress: a list of \[\[compress\]\] tables with a method each"),
        ("x = = 3", "edgekit.toml: not valid TOML: .*line 1"),
    ],
)
def test_a_mistake_gets_one_line_with_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_project(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none.toml: cannot be read: No such file"):
        load_project(tmp_path / "none.toml")


def test_flags_lie_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sub = tmp_path / "sub"
    sub.mkdir()
    config = write(sub, WHOLE)
    (tmp_path / "other.onnx").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    settings = {"calibration.samples": 7, "calibration.data": None, "evaluation.data": "data:test"}
    project = Project.from_flags("other.onnx", Path("sub") / config.name, settings)
    assert project.model.source == "../other.onnx"
    assert (project.folder / project.model.source).exists()
    assert project.calibration.samples == 7
    assert project.calibration.data == "calib.npz"
    assert project.evaluation.data == "data:test"


def test_flags_alone_make_a_project() -> None:
    project = Project.from_flags("net.onnx", None, {"gates.size": "1 MB"})
    assert project.model.source == "net.onnx"
    assert project.limits("x").size_bytes == 1_000_000
    with pytest.raises(ConfigError, match="command line:calibration.samples: 'x' was given"):
        Project.from_flags("net.onnx", None, {"calibration.samples": "x"})


def test_every_shipped_recipe_loads() -> None:
    assert set(list_recipes()) == {"cifar10", "coco", "digits", "fashion-mnist", "imagenet"}
    for name in list_recipes():
        recipe = load_recipe(name)
        assert recipe.description
        assert recipe.missing == bool(recipe.supply)


def test_a_recipe_brings_data_range_and_preprocessing(tmp_path: Path) -> None:
    text = '[calibration]\nrecipe = "cifar10"\nsamples = 9\n[model.inputs.x]\nmean = [0.5, 0.5, 0.5]'
    project = load_project(write(tmp_path, text))
    assert project.calibration.samples == 9
    assert project.calibration.data == str(tmp_path / "calibration" / "cifar10.npz")
    assert "calibration/cifar10.npz" in project.calibration.supply
    assert project.model.input("x").mean == (0.5, 0.5, 0.5)
    assert project.model.input("x").std == (0.229, 0.224, 0.225)
    assert project.model.input("undeclared").mean == (0.485, 0.456, 0.406)


def test_a_recipes_data_is_found_in_the_project(tmp_path: Path) -> None:
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "cifar10.npz").write_bytes(b"")
    project = load_project(write(tmp_path, '[calibration]\nrecipe = "cifar10"'))
    assert project.calibration.data == str(tmp_path / "calibration" / "cifar10.npz")
    assert not project.calibration.supply


def test_a_bad_recipe_names_file_and_key(tmp_path: Path) -> None:
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "ours.toml").write_text('description = "d"\ndata = "d.npz"\nsample = 3')
    with pytest.raises(ConfigError, match=r"calibration/ours.toml:sample: unknown key; did you mean samples\?"):
        load_recipe("ours", tmp_path)
    (tmp_path / "calibration" / "ours.toml").write_text('description = "d"')
    with pytest.raises(ConfigError, match="calibration/ours.toml:data: missing"):
        load_recipe("ours", tmp_path)
