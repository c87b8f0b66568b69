"""Where results go: a folder a target, files written beside and renamed, and a cache of finished stages."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.errors import OutputError

CACHE = ".cache"


def prepare_folder(path: Path) -> Path:
    """Make the folder and see that it can be written. Raises OutputError before any work is done for nothing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(f"output folder {path}: cannot be written: {error.strerror or error}") from error
    return path


def write(path: Path, data: bytes | str) -> Path:
    """Write a file whole or not at all. Raises OutputError with the system's reason."""
    if not path.name:
        raise OutputError(f"{path}: cannot be written: Is a directory")
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        beside.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


class Cache:
    """Finished stages by the content of all that they depend on. A damaged entry counts as absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, stage: str, depends_on: Any, make: Callable[[], Any]) -> tuple[Any, bool]:
        """The stage's JSON result, and whether it was already there."""
        key = hashlib.sha256(json.dumps([stage, depends_on], sort_keys=True).encode()).hexdigest()[:32]
        path = self._folder / f"{stage}-{key}.json"
        try:
            return json.loads(path.read_text()), True
        except (OSError, ValueError):
            result = make()
        prepare_folder(self._folder)
        write(path, json.dumps(result))
        return json.loads(json.dumps(result)), False
