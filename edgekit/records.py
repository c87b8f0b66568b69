"""Raw samples, read one at a time: arrays in ``.npz`` and ``.npy``, a folder of images, or a ``module:callable``.

No reader keeps more than one sample in memory, and each can be read again from the start.
"""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError
from edgekit.named import ForeignCode, load_named

Array = NDArray[Any]
LABEL_KEYS = ("labels", "label", "y", "targets")
NAME_KEYS = ("class_names", "classes")
VALUE_KEYS = ("images", "image", "x", "data", "features", "inputs")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
ACCEPTED = ".npz or .npy, a folder of images, or module:callable"
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, OSError, NotImplementedError)


@dataclass(frozen=True)
class Record:
    """One raw sample: values by input name, its label if it has one, and what messages call it."""

    values: Mapping[str, Array]
    label: Any
    name: str


class Records(Protocol):
    """Raw samples in a fixed order. ``count`` is None where it can only be found out by reading."""

    @property
    def count(self) -> int | None:
        """How many there are."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, when the data has them."""

    def take(self, picks: Iterable[int]) -> Iterator[Record]:
        """The samples at these indices, which ascend."""


@dataclass(frozen=True)
class Member:
    """An array in a file that is read row by row; ``open`` gives its bytes from the ``.npy`` header on."""

    name: str
    open: Callable[[], IO[bytes]]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row along the first axis."""
        return self.shape[1:]

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""
        return math.prod(self.row_shape) * self.dtype.itemsize

    def row(self, stream: IO[bytes], index: int) -> Array:
        """One row, from a stream that has not gone past it. Raises DataError at an early end."""
        stream.seek(self.start + index * self.row_bytes)
        data = stream.read(self.row_bytes)
        if len(data) != self.row_bytes:
            raise DataError(f"{self.name}: ends in row {index} of {self.shape[0]}; the file is truncated")
        return np.frombuffer(data, self.dtype).reshape(self.row_shape)

    def whole(self) -> Array:
        """All of it; for arrays that are small by nature, such as class names."""
        with self.open() as stream:
            stream.seek(self.start)
            data = stream.read(math.prod(self.shape) * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(self.shape)


def read_member(name: str, opener: Callable[[], IO[bytes]]) -> Member:
    """The header of an array. Raises DataError when its rows cannot be read one by one."""
    with opener() as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        start = stream.tell()
    if dtype.hasobject:
        raise DataError(f"{name}: holds pickled Python objects, which can run code; save plain arrays")
    if fortran and len(shape) > 1:
        raise DataError(f"{name}: is in Fortran order; save it with np.ascontiguousarray")
    return Member(name, opener, shape, dtype, start)


@dataclass(frozen=True)
class ArrayRecords:
    """Arrays whose first axis counts the samples."""

    members: Mapping[str, Member]
    label: Member | None
    labels: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many there are."""
        return next(iter(self.members.values())).shape[0]

    def take(self, picks: Iterable[int]) -> Iterator[Record]:
        """The samples at these indices, which ascend. Raises DataError when the file is damaged."""
        members = dict(self.members) | ({"": self.label} if self.label else {})
        first = next(iter(members.values())).name
        with ExitStack() as stack:
            streams = {key: stack.enter_context(member.open()) for key, member in members.items()}
            for index in picks:
                try:
                    rows = {key: member.row(streams[key], index) for key, member in members.items()}
                except DAMAGED as error:
                    raise DataError(f"{first}: is damaged at sample {index}: {error}") from None
                yield Record(rows, rows.pop("", None), f"{first}[{index}]")


@dataclass(frozen=True)
class ImageRecords:
    """Image files; in sub-folders, each of which is a class, or all in one folder."""

    input_name: str
    mode: str
    files: Sequence[tuple[Path, int | None]]
    labels: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.files)

    def take(self, picks: Iterable[int]) -> Iterator[Record]:
        """The samples at these indices, opened one by one."""
        for index in picks:
            path, label = self.files[index]
            yield Record({self.input_name: self._pixels(path)}, label, str(path))

    def _pixels(self, path: Path) -> Array:
        """uint8 (height, width, channels). Raises DataError when the file is not a readable 8-bit image."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                if image.mode[0] in "IF":
                    raise DataError(f"{path}: is a {image.mode} image; 8 bits a channel are needed")
                pixels = np.asarray(image.convert(self.mode))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            said = "not an image" if isinstance(error, UnidentifiedImageError) else error
            raise DataError(f"{path}: cannot be read: {said}") from None
        return pixels if pixels.ndim == 3 else pixels[:, :, None]


@dataclass(frozen=True)
class PythonRecords:
    """What a ``module:callable`` (called for each pass) or a ``module:iterable`` gives.

    Each item is a dictionary by input name (a label under ``label``), an array, or a pair (array, label).
    """

    source: str
    made: Any
    input_names: Sequence[str]
    labels: tuple[str, ...] = field(default=())

    @property
    def count(self) -> int | None:
        """How many there are, where the iterable has a length."""
        items = self._items()
        return len(items) if hasattr(items, "__len__") else None

    def take(self, picks: Iterable[int]) -> Iterator[Record]:
        """The samples at these indices, from a fresh iterator."""
        items, at, nothing = iter(self._items()), -1, object()
        for wanted in picks:
            item: Any = nothing
            while at < wanted:
                at += 1
                with ForeignCode(f"{self.source}[{at}]", DataError):
                    item = next(items, nothing)
                if item is nothing:
                    return
            yield self._record(item, f"{self.source}[{at}]")

    def _items(self) -> Any:
        makes = isinstance(self.made, type) or (callable(self.made) and not hasattr(self.made, "__getitem__"))
        with ForeignCode(self.source, DataError):
            items = self.made() if makes else self.made
        try:
            again = iter(items) is items and items is self.made
        except TypeError:
            raise DataError(f"{self.source}: gives {type(items).__name__}, an iterable of samples is needed") from None
        if again:
            raise DataError(f"{self.source}: can be read only once; name a function that returns a new iterator")
        return items

    def _record(self, item: Any, where: str) -> Record:
        label = None
        if isinstance(item, Mapping):
            values = dict(item)
            found = [key for key in LABEL_KEYS if key in values and key not in self.input_names]
            label = values.pop(found[0]) if found else None
        elif len(self.input_names) > 1:
            raise DataError(f"{where}: is {_kind(item)}, a dictionary of {', '.join(self.input_names)} is needed")
        else:
            if isinstance(item, tuple) and len(item) == 2:
                item, label = item
            values = {self.input_names[0]: item}
        missing = [name for name in self.input_names if name not in values]
        if missing:
            raise DataError(f"{where}: has no {', '.join(missing)}; it has {', '.join(map(str, values)) or 'nothing'}")
        return Record({name: _array(values[name], where) for name in self.input_names}, label, where)


def open_records(data: str, input_names: Sequence[str], mode: str, folder: Path) -> Records:
    """Raw samples from ``data``, relative to ``folder``. Raises DataError when it is none of what is accepted.

    ``FILE.npz:PREFIX`` takes the arrays ``PREFIX_images``, ``PREFIX_labels``. ``mode`` is how images are opened.
    """
    path_text, _, prefix = data.partition(".npz:")
    path = folder / (path_text + ".npz" if prefix else data)
    shown = data
    if path.is_dir():
        return _image_records(path, shown, input_names, mode)
    if path.suffix in (".npz", ".npy"):
        if not path.is_file():
            raise DataError(f"{shown}: no such file (in {folder.resolve()})")
        try:
            return _open_arrays(path, shown, input_names, prefix)
        except DAMAGED as error:
            raise DataError(f"{shown}: is not a sound {path.suffix} file: {error}") from None
    if path.exists():
        raise DataError(f"{shown}: {path.suffix or 'such'} files cannot be used; accepted: {ACCEPTED}")
    if ":" in data:
        return PythonRecords(data, load_named(data, folder, "data", DataError), tuple(input_names))
    raise DataError(f"{shown}: no such file or folder (in {folder.resolve()}); accepted: {ACCEPTED}")


def _open_arrays(path: Path, shown: str, input_names: Sequence[str], prefix: str) -> ArrayRecords:
    if path.suffix == ".npy":
        members = {"": read_member(shown, lambda: path.open("rb"))}
    else:
        members = _archive(path, shown)
    members = {key.removeprefix(f"{prefix}_"): m for key, m in members.items() if not prefix or _has(key, prefix)}
    if not members:
        raise DataError(f"{shown}: holds no array {prefix}; arrays: {', '.join(_archive(path, shown)) or 'none'}")
    label = next((members[key] for key in LABEL_KEYS if key in members and key not in input_names), None)
    names = next((members[key] for key in NAME_KEYS if key in members), None)
    values = _values(members, input_names, shown)
    counts = {member.name: member.shape[:1] for member in (*values.values(), *([label] if label else []))}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {list(count)}" for name, count in counts.items())
        raise DataError(f"{shown}: the arrays differ in their number of samples: {said}")
    if () in counts.values():
        raise DataError(f"{shown}: is a single value; an array whose first axis counts the samples is needed")
    return ArrayRecords(values, label, tuple(str(name) for name in names.whole()) if names else ())


def _has(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}_") or key in NAME_KEYS


def _archive(path: Path, shown: str) -> dict[str, Member]:
    """The arrays in a ``.npz``, by name."""

    def opener(name: str) -> Callable[[], IO[bytes]]:
        def member() -> IO[bytes]:
            with zipfile.ZipFile(path) as archive:  # the file stays open until the member is closed
                return archive.open(name)

        return member

    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
    return {name[:-4]: read_member(f"{shown}:{name[:-4]}", opener(name)) for name in names}


def _values(members: Mapping[str, Member], input_names: Sequence[str], shown: str) -> dict[str, Member]:
    """The arrays for the inputs: by name; for a single input also by a usual name, or the only one that is left."""
    if all(name in members for name in input_names):
        return {name: members[name] for name in input_names}
    left = [key for key in members if key not in (*LABEL_KEYS, *NAME_KEYS)]
    usual = [key for key in VALUE_KEYS if key in members] or (left if len(left) == 1 else [])
    if len(input_names) == 1 and usual:
        return {input_names[0]: members[usual[0]]}
    missing = [name for name in input_names if name not in members]
    raise DataError(f"{shown}: holds no array {', '.join(missing)}; arrays: {', '.join(members) or 'none'}")


def _image_records(path: Path, shown: str, input_names: Sequence[str], mode: str) -> ImageRecords:
    if len(input_names) != 1:
        raise DataError(f"{shown}: a folder of images feeds one input, the model has {', '.join(input_names)}")
    loose = _images(path.iterdir())
    classes = sorted(sub for sub in path.iterdir() if sub.is_dir() and not sub.name.startswith("."))
    inside = [(file, i) for i, sub in enumerate(classes) for file in _images(sub.rglob("*"))]
    if not loose and not inside:
        raise DataError(
            f"{shown}: holds no images; accepted: {', '.join(IMAGE_SUFFIXES)}, in sub-folders by class or not"
        )
    if loose and inside:
        raise DataError(f"{shown}: {len(loose)} images lie beside sub-folders with {len(inside)}; use one or the other")
    if inside:
        return ImageRecords(input_names[0], mode, inside, tuple(sub.name for sub in classes))
    return ImageRecords(input_names[0], mode, [(file, None) for file in loose])


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))


def _array(value: Any, where: str) -> Array:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: {_kind(value)} is not an array: {error}") from None
    if array.dtype.hasobject:
        raise DataError(f"{where}: is {_kind(value)}, an array, (array, label) or a dictionary of arrays is needed")
    return array


def _kind(value: Any) -> str:
    return f"of type {type(value).__name__}"
