"""Samples: every kind of data, subsets, digests, constant memory, warnings that say what was seen, and bad data."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import ConfigError, DataError
from edgekit.inputs import InputConfig
from edgekit.project import Project
from edgekit.samples import Samples, look, open_calibration, open_evaluation, open_samples

PORT = {"image": (1, 3, 8, 8)}
NORMAL = InputConfig(mean=(0.5,), std=(0.25,))


def scenes(count: int, size: int = 8, seed: int = 0) -> NDArray[Any]:
    """uint8 (count, size, size, 3) that look like photographs: smooth, and different in each channel."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 3, 3, 3)).astype(np.float32)
    along = np.linspace(0, 2, size)
    low, share = np.minimum(along.astype(int), 1), along - np.minimum(along.astype(int), 1)
    rows = coarse[:, low] * (1 - share)[None, :, None, None] + coarse[:, low + 1] * share[None, :, None, None]
    both = rows[:, :, low] * (1 - share)[None, None, :, None] + rows[:, :, low + 1] * share[None, None, :, None]
    return both.astype(np.uint8)


def npz(folder: Path, name: str = "data.npz", save: Callable[..., None] = np.savez, **arrays: Any) -> str:
    save(folder / name, **arrays)
    return name


def opened(folder: Path, data: str, config: InputConfig | None = None, **kwargs: Any) -> Samples:
    return open_samples(data, PORT, {"image": config} if config else {}, folder=folder, **kwargs)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_stream_from_an_archive(tmp_path: Path, save: Callable[..., None]) -> None:
    images, labels = scenes(5), np.arange(5)
    samples = opened(
        tmp_path, npz(tmp_path, save=save, images=images, labels=labels, class_names=np.array(list("abcde")))
    )
    for _ in range(2):  # a second pass gives the same
        seen = list(samples)
        assert [int(sample.label) for sample in seen] == [0, 1, 2, 3, 4]
        for sample, image in zip(seen, images, strict=True):
            np.testing.assert_array_equal(sample.inputs["image"][0], (image * np.float32(1 / 255)).transpose(2, 0, 1))
    assert len(samples) == 5
    assert samples.labels == tuple("abcde")
    assert seen[3].name == "data.npz:images[3]"


def test_a_single_array_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", scenes(4))
    samples = opened(tmp_path, "x.npy")
    assert len(list(samples)) == 4
    assert next(iter(samples)).label is None


@pytest.mark.parametrize("key", ["image", "images", "x", "features", "anything"])
def test_an_array_may_have_the_inputs_name_or_a_usual_one_or_be_the_only_one(tmp_path: Path, key: str) -> None:
    assert len(opened(tmp_path, npz(tmp_path, **{key: scenes(2), "y": np.zeros(2)}))) == 2


def test_a_prefix_picks_a_split(tmp_path: Path) -> None:
    arrays = {"train_images": scenes(5), "test_images": scenes(2), "test_labels": np.array([7, 8])}
    samples = opened(tmp_path, npz(tmp_path, **arrays) + ":test")
    assert [int(sample.label) for sample in samples] == [7, 8]
    with pytest.raises(DataError, match="holds no array val; arrays: train_images, test_images, test_labels"):
        opened(tmp_path, "data.npz:val")


def test_several_inputs_are_found_by_name(tmp_path: Path) -> None:
    ports = {"a": (1, 4), "b": (2,)}
    data = npz(tmp_path, a=np.ones((3, 4)), b=np.zeros((3, 2)))
    sample = next(iter(open_samples(data, ports, folder=tmp_path)))
    assert {name: value.shape for name, value in sample.inputs.items()} == {"a": (1, 4), "b": (2,)}
    with pytest.raises(DataError, match=r"data.npz: holds no array c; arrays: a, b"):
        open_samples(data, {"a": (1, 4), "c": (2,)}, folder=tmp_path)


def test_a_subset_is_evenly_spaced(tmp_path: Path) -> None:
    data = npz(tmp_path, images=scenes(10), labels=np.arange(10))
    assert [int(sample.label) for sample in opened(tmp_path, data, limit=4)] == [0, 2, 5, 7]
    assert len(opened(tmp_path, data, limit=4)) == 4
    assert len(opened(tmp_path, data, limit=40)) == 10


def test_the_digest_is_of_what_is_used(tmp_path: Path) -> None:
    data = npz(tmp_path, images=scenes(10))
    digest = opened(tmp_path, data).sha256
    assert opened(tmp_path, npz(tmp_path, "packed.npz", np.savez_compressed, images=scenes(10))).sha256 == digest
    assert opened(tmp_path, data, limit=9).sha256 != digest
    assert opened(tmp_path, data, NORMAL).sha256 != digest
    assert opened(tmp_path, npz(tmp_path, "other.npz", images=scenes(10, seed=1))).sha256 != digest


def test_images_in_one_folder(tmp_path: Path) -> None:
    for i, image in enumerate(scenes(3)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    samples = list(opened(tmp_path, "."))
    assert [sample.label for sample in samples] == [None] * 3
    np.testing.assert_array_equal(
        samples[1].inputs["image"][0], (scenes(3)[1] * np.float32(1 / 255)).transpose(2, 0, 1)
    )


def test_subfolders_are_classes(tmp_path: Path) -> None:
    for name, image in zip(("dog", "cat", "cat"), scenes(3), strict=True):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / name / f"{image.sum()}.jpg")
    samples = opened(tmp_path, ".")
    assert [sample.label for sample in samples] == [0, 0, 1]
    assert samples.labels == ("cat", "dog")


def test_image_files_take_the_models_channels(tmp_path: Path) -> None:
    Image.fromarray(scenes(1)[0]).convert("P").save(tmp_path / "palette.png")
    assert next(iter(opened(tmp_path, "."))).inputs["image"].shape == (1, 3, 8, 8)
    grey = next(iter(open_samples(".", {"x": (1, 1, 8, 8)}, folder=tmp_path)))
    assert grey.inputs["x"].shape == (1, 1, 8, 8)


MODULE = """
import numpy as np
ones = [np.full((3, 8, 8), i / 10, np.float32) for i in range(5)]
def arrays(): yield from ones
def pairs(): return [(x, i) for i, x in enumerate(ones)]
def dicts(): return iter([{"image": x, "label": i} for i, x in enumerate(ones)])
once = (x for x in ones)
def number(): return 3
def words(): return ["a", None]
def objects(): return [object()]
def wrong(): return [{"picture": 3}]
def nothing(): return []
def falls(): raise RuntimeError("no disk")
def breaks():
    yield ones[0]
    yield ones[7]
def forever():
    while True: yield ones[3]
class Dataset:
    def __len__(self): return 5
    def __getitem__(self, i):
        if i >= 5: raise IndexError
        return ones[i], i
torchlike = Dataset()
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    (tmp_path / "givendata.py").write_text(MODULE)
    return "givendata"


@pytest.mark.parametrize("name", ["arrays", "ones", "pairs", "dicts", "torchlike", "Dataset"])
def test_python_gives_samples_again_and_again(tmp_path: Path, module: str, name: str) -> None:
    samples = opened(tmp_path, f"{module}:{name}")
    for _ in range(2):
        assert [round(float(s.inputs["image"].max()) * 10) for s in samples] == [0, 1, 2, 3, 4]
    assert len(samples) == 5
    labels = [s.label for s in samples]
    assert labels == ([None] * 5 if name in ("arrays", "ones") else [0, 1, 2, 3, 4])


def test_an_endless_source_gives_its_first(tmp_path: Path, module: str) -> None:
    assert len(list(opened(tmp_path, f"{module}:forever", limit=3))) == 3


def test_the_import_path_is_left_as_it_was_and_namesakes_are_told_apart(tmp_path: Path, module: str) -> None:
    before = list(sys.path)
    assert len(opened(tmp_path, f"{module}:arrays")) == 5
    other = tmp_path / "other"
    other.mkdir()
    (other / "givendata.py").write_text("import numpy as np\narrays = [np.ones((3, 8, 8))]\n")
    assert len(opened(other, f"{module}:arrays")) == 1
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("once", "givendata:once: can be read only once; name a function that returns a new iterator"),
        ("number", "givendata:number: gives int, an iterable of samples is needed"),
        ("objects", r"givendata:objects\[0\]: is of type object, an array"),
        ("words", r"givendata:words\[0\]: input image: holds <U1 values"),
        ("wrong", r"givendata:wrong\[0\]: has no image; it has picture"),
        ("nothing", "givendata:nothing: holds no samples"),
        ("falls", r"givendata:falls: RuntimeError: no disk \(givendata.py:\d+\)"),
        ("breaks", r"givendata:breaks\[1\]: IndexError: list index out of range \(givendata.py:\d+\)"),
        ("absent", "data givendata:absent: givendata has no 'absent'; it has Dataset"),
    ],
)
def test_what_python_gives_wrong_is_said(tmp_path: Path, module: str, name: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(opened(tmp_path, f"{module}:{name}"))


def test_modules_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "brokendata.py").write_text("def f(:")
    with pytest.raises(DataError, match="brokendata cannot be imported: "):
        opened(tmp_path, "brokendata:f")
    with pytest.raises(DataError, match="no module 'absentdata'"):
        opened(tmp_path, "absentdata:f")


def peak(samples: Samples) -> int:
    tracemalloc.start()
    for _ in samples:
        pass
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path, save: Callable[..., None]) -> None:
    images = np.zeros((4000, 32, 32, 3), np.uint8)
    port = {"image": (1, 3, 32, 32)}
    few = open_samples(npz(tmp_path, "few.npz", save, images=images[:40]), port, folder=tmp_path)
    many = open_samples(npz(tmp_path, "many.npz", save, images=images), port, folder=tmp_path)
    list(few)
    assert peak(many) < peak(few) + 50_000  # the array is 12 MB


# --- bad data ---


def truncated(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((0, 8, 8, 3))}, "data.npz: holds no samples"),
        ({}, "data.npz: holds no array "),
        (
            {"images": np.zeros((2, 8, 8, 3)), "labels": np.zeros(3)},
            r"differ in their number of samples: .*\[2\].*\[3\]",
        ),
        ({"images": np.float32(3)}, "is a single value"),
        ({"images": np.array([None, 1])}, "data.npz:images: holds pickled Python objects, which can run code"),
        ({"images": np.asfortranarray(np.zeros((4, 8, 8, 3)))}, "data.npz:images: is in Fortran order"),
        ({"a": np.zeros(2), "b": np.zeros(2)}, "data.npz: holds no array image; arrays: a, b"),
        (
            {"images": np.zeros((2, 8, 8))},
            r"data.npz:images\[0\]: input image: shape \[8, 8\] was found, \[8, 8, 3\] or",
        ),
        ({"images": np.full((2, 8, 8, 3), np.nan)}, r"data.npz:images\[0\]: input image: holds NaN \(192 of 192\)"),
        ({"images": np.full((2, 8, 8, 3), "a")}, r"data.npz:images\[0\]: input image: holds <U1 values"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        list(opened(tmp_path, npz(tmp_path, **arrays)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("none.npz", r"none.npz: no such file \(in "),
        ("none", r"none: no such file or folder .*; accepted: .npz or .npy, a folder of images, or module:callable"),
        ("empty", "empty: holds no images; accepted: .png, .jpg"),
        ("notes.txt", "notes.txt: .txt files cannot be used; accepted: .npz"),
        ("text.npz", "text.npz: is not a sound .npz file: File is not a zip file"),
        ("text.npy", "text.npy: is not a sound .npy file"),
        ("mixed", "mixed: 1 images lie beside sub-folders with 1"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, data: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed" / "sub").mkdir(parents=True)
    for place in ("mixed/a.png", "mixed/sub/b.png"):
        Image.fromarray(scenes(1)[0]).save(tmp_path / place)
    for name in ("notes.txt", "text.npz", "text.npy"):
        (tmp_path / name).write_text("hello there, this is text")
    with pytest.raises(DataError, match=said) as caught:
        list(opened(tmp_path, data))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_archive(tmp_path: Path, save: Callable[..., None]) -> None:
    npz(tmp_path, save=save, images=scenes(50))
    truncated(tmp_path / "data.npz")
    with pytest.raises(DataError, match="data.npz: is not a sound .npz file"):
        list(opened(tmp_path, "data.npz"))


def test_an_archive_with_a_damaged_member(tmp_path: Path) -> None:
    path = tmp_path / npz(tmp_path, save=np.savez_compressed, images=scenes(50))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"data.npz:images: is damaged at sample \d+"):
        list(opened(tmp_path, "data.npz"))


def test_a_truncated_array_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", scenes(50))
    truncated(tmp_path / "x.npy")
    with pytest.raises(DataError, match=r"x.npy: ends in row \d+ of 50; the file is truncated"):
        list(opened(tmp_path, "x.npy"))


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(DataError, match=r"a.png: cannot be read: not an image"):
        list(opened(tmp_path, "."))
    Image.fromarray(scenes(1, 64)[0]).save(tmp_path / "a.png")
    truncated(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png: cannot be read: .*truncated"):
        list(opened(tmp_path, "."))
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png: is a I(;16)? image; 8 bits a channel are needed"):
        list(opened(tmp_path, "."))


# --- what looks wrong ---


def test_sound_data_gets_no_warning(tmp_path: Path) -> None:
    labels = np.arange(64) % 2
    assert look(opened(tmp_path, npz(tmp_path, images=scenes(64), labels=labels), NORMAL)) == []
    assert look(opened(tmp_path, "data.npz"), "evaluation") == []


@pytest.mark.parametrize(
    ("images", "config", "said"),
    [
        (scenes(8), None, "calibration: only 8 samples; ranges want 32 or more, a few hundred are usual"),
        (np.repeat(scenes(1), 40, 0), None, "calibration: all 40 samples are the same"),
        (
            np.concatenate([scenes(39), np.full((1, 8, 8, 3), 7, np.uint8)]),
            None,
            "input image: 1 of 40 samples have one value only (the first: data.npz:images[39])",
        ),
        (
            scenes(40).astype(np.float32),
            NORMAL,
            "float32 values from 0 to 25",  # the exact maximum is the data's
        ),
        (scenes(40).astype(np.float32), NORMAL, "raw values up to 255 want scale = 0.00392157"),
        ((scenes(40) / 127.5 - 1).astype(np.float32), NORMAL, "are they normalised already?"),
        (
            (scenes(40) / 64 - 1).astype(np.float32),
            NORMAL,
            "mean and std are of values in [0, 1]; are they normalised already?",
        ),
        (scenes(40).astype(np.float32), None, "no scale, mean or std is declared; does the model want raw values?"),
        (scenes(40) // 128, None, "uint8 values from 0 to 1 were seen; are they scaled already?"),
        (scenes(40), InputConfig(mean=(118.0,), std=(57.0,)), None),
        (scenes(40), InputConfig(mean=(118.0,), std=(1.0,)), "do mean and std fit?"),
    ],
)
def test_what_looks_wrong_is_said_with_what_was_seen(
    tmp_path: Path, images: NDArray[Any], config: InputConfig | None, said: str | None
) -> None:
    warnings = look(opened(tmp_path, npz(tmp_path, images=images), config))
    assert (said is None) or any(said in line for line in warnings), warnings
    assert all("\n" not in line for line in warnings)


def test_reshaped_instead_of_transposed_is_noticed(tmp_path: Path) -> None:
    port = {"image": (1, 3, 32, 32)}
    images = scenes(40, 32)
    wrong = open_samples(npz(tmp_path, images=images.reshape(40, 3, 32, 32)), port, folder=tmp_path)
    assert any("is this channels-last data that was reshaped to [1, 3, 32, 32]?" in line for line in look(wrong))
    right = open_samples(npz(tmp_path, images=images.transpose(0, 3, 1, 2)), port, folder=tmp_path)
    assert look(right) == []


def test_labels_of_one_class_only(tmp_path: Path) -> None:
    data = npz(tmp_path, images=scenes(40), labels=np.full(40, 3))
    assert look(opened(tmp_path, data), "evaluation") == ["evaluation: all 40 labels are 3"]


# --- the project's ---


def test_a_project_opens_its_data(tmp_path: Path) -> None:
    data = npz(tmp_path, images=scenes(40), labels=np.arange(40))
    settings = {"calibration.samples": 8, "evaluation.samples": 4}
    (tmp_path / "edgekit.toml").write_text(
        f'[calibration]\ndata = "{data}"\n[evaluation]\ndata = "{data}"\n[model.inputs.image]\nmean = [0.5]'
    )
    project = Project.from_flags(None, tmp_path / "edgekit.toml", settings)
    assert len(open_calibration(project, PORT)) == 8
    assert len(open_evaluation(project, PORT)) == 4
    assert open_calibration(project, PORT).preprocessing["image"]["mean"] == [0.5]
    with pytest.raises(ConfigError, match="model.inputs.image: the model has no such input; it has x"):
        open_calibration(project, {"x": (1, 3, 8, 8)})


def test_a_project_without_data_says_what_is_accepted(tmp_path: Path) -> None:
    project = Project(tmp_path, "edgekit.toml")
    with pytest.raises(
        ConfigError, match="edgekit.toml:calibration.data: missing; int8 needs samples of real inputs: .npz"
    ):
        open_calibration(project, PORT)
    with pytest.raises(ConfigError, match="edgekit.toml:evaluation.data: missing; accepted: .npz"):
        open_evaluation(project, PORT)


def test_a_recipe_without_its_data_says_where_it_goes() -> None:
    project = Project.from_flags("net.onnx", None, {"calibration.recipe": "imagenet"})
    with pytest.raises(DataError, match="imagenet has no data yet: put a folder calibration/imagenet"):
        open_calibration(project, PORT)


def test_the_shipped_digits_are_ready_to_use() -> None:
    project = Project.from_flags("net.onnx", None, {"calibration.recipe": "digits"})
    samples = open_calibration(project, {"x": (1, 1, 8, 8)})
    assert len(samples) == 100
    assert look(samples) == []
    assert [int(sample.label) for sample in samples] == [i // 10 for i in range(100)]


def test_a_recipes_preprocessing_is_for_images(tmp_path: Path) -> None:
    (tmp_path / "calibration").mkdir()
    npz(tmp_path / "calibration", "cifar10.npz", image=scenes(3), state=np.ones((3, 5)))
    (tmp_path / "edgekit.toml").write_text('[calibration]\nrecipe = "cifar10"')
    project = Project.from_flags(None, tmp_path / "edgekit.toml")
    sample = next(iter(open_calibration(project, {**PORT, "state": (1, 5)})))
    np.testing.assert_array_equal(sample.inputs["state"], np.ones((1, 5)))


def test_real_photographs_look_right(shared: Path) -> None:
    config = InputConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    port = {"image": (1, 3, 32, 32)}
    samples = open_samples("cifar10_calib.npz", port, {"image": config}, limit=200, folder=shared / "data")
    assert look(samples) == []
    assert samples.labels[0] == "airplane"
