"""Frozen dataclasses to JSON and back, led by their annotations.

JSON has no infinity: a float that is not finite (the signal-to-noise of a tensor without any error) is written as the
string "inf", "-inf" or "nan", and read back as a float.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from edgekit.errors import InputError

T = TypeVar("T")

_SCALARS: dict[Any, Any] = {int: (int,), str: (str,), bool: (bool,), float: (int, float)}
_NOT_FINITE = ("inf", "-inf", "nan")


def encode(value: Any) -> Any:
    """``value`` (dataclasses, mappings, sequences, numbers, text) as plain JSON values."""
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if hasattr(value, "item"):
        return encode(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, int | float | str) else str(value)


def decode(cls: type[T], value: Any, where: str) -> T:
    """The ``cls`` (a dataclass) that ``encode`` wrote. Keys that are not known are passed over.

    Raises InputError that names ``where:key``, what was found and what is accepted.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: found {_word(value)}, {_needs(cls)} is needed")
    hints = get_type_hints(cls)
    known: dict[str, Any] = {}
    for field in fields(cls):  # type: ignore[arg-type]
        if field.name in value:
            known[field.name] = _typed(hints[field.name], value[field.name], _join(where, field.name))
        elif _needed(field):
            raise InputError(f"{_join(where, field.name)}: missing")
    return cls(**known)


def _needed(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _join(where: str, key: str) -> str:
    return f"{where}{'.' if ':' in where else ':'}{key}"


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _union(args, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(args[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(key): _typed(args[1], item, _join(where, str(key))) for key, item in value.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, value, where)
    return _scalar(hint, value, where)


def _union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and NoneType in args:
        return None
    return _typed(next(arg for arg in args if arg is not NoneType), value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, str) and value in _NOT_FINITE:
        return float(value)
    accepted = _SCALARS.get(hint, ())
    if isinstance(value, accepted) and (hint is bool or not isinstance(value, bool)):
        return float(value) if hint is float else value
    raise InputError(f"{where}: found {_word(value)}, {_needs(hint)} is needed")


def _needs(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return "an array"
    return str(hint.__name__) if hint in _SCALARS else "an object"


def _word(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
