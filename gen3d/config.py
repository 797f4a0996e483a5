"""Configuration: frozen dataclasses, filled from YAML or JSON, strict about unknown keys."""

import dataclasses
import math
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from gen3d.errors import Gen3dError

T = TypeVar("T")


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from plain values, nested dataclasses and tuples included.

    Args:
        cls: a dataclass type.
        values: what YAML or JSON gave; fields left out keep their defaults.
        where: dotted path of `values` in the whole configuration, for messages.

    Raises:
        Gen3dError: a key that is no field, a missing required field, or a value of a wrong type.
    """
    if not isinstance(values, Mapping):
        raise Gen3dError(f"{where or 'configuration'} must be a mapping, got {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    unknown = [key for key in values if key not in fields]
    if unknown:
        raise Gen3dError(
            f"unknown configuration key {_join(where, str(unknown[0]))!r}; "
            f"allowed here: {', '.join(sorted(fields))}"
        )
    hints = typing.get_type_hints(cls)
    arguments = {k: convert(hints[k], v, _join(where, k)) for k, v in values.items()}
    missing = [
        name
        for name, f in fields.items()
        if name not in arguments
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise Gen3dError(f"configuration key {_join(where, missing[0])!r} is missing")
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise Gen3dError(f"{where or 'configuration'}: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """The plain, JSON-ready form of a configuration; `from_dict` reads it back."""
    return _plain(config)


def require_at_least(least: float, config: Any, *names: str) -> None:
    """Refuse a dataclass of which one of the fields called `names` is smaller; None passes.

    Raises:
        ValueError: one of them is; `from_dict` says where it stands.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise ValueError(f"{name} is {value}; at least {least:g}")


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        Gen3dError: the file is missing, is no YAML, or holds something else than a mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Gen3dError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise Gen3dError(f"{path} is not valid YAML: {reason}") from error
    if not isinstance(values, dict):
        raise Gen3dError(f"{path} must hold a mapping of keys to values, not {type(values).__name__}")
    return values


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `hint`, or a Gen3dError that names `where`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is typing.Literal:
        if not any(value == allowed for allowed in arguments):
            raise Gen3dError(f"{where} is {value!r}; allowed: {', '.join(map(str, arguments))}")
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if origin is dict and isinstance(value, Mapping):
        key_hint, value_hint = arguments
        return {convert(key_hint, k, where): convert(value_hint, v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise Gen3dError(f"{where} is {value}; expected a finite number")
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if hint in (int, float, str, bool) and type(value) is hint:
        return value
    raise Gen3dError(f"{where} is {value!r}; expected {getattr(hint, '__name__', hint)}")


def _convert_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in members:
        return None
    candidates = [m for m in members if m is not type(None)]
    if isinstance(value, Mapping):
        candidates = [m for m in candidates if _tagged(m, value)] or candidates
    for member in candidates[:-1]:
        try:
            return convert(member, value, where)
        except Gen3dError:
            continue
    return convert(candidates[-1], value, where)


def _tagged(member: Any, value: Mapping[str, Any]) -> bool:
    """Whether the literal fields of a dataclass, which tell it from others of a union, fit `value`."""
    if not dataclasses.is_dataclass(member):
        return False
    hints = typing.get_type_hints(member)
    literals = {k: typing.get_args(h) for k, h in hints.items() if typing.get_origin(h) is typing.Literal}
    return all(value[k] in allowed for k, allowed in literals.items() if k in value)


def _convert_tuple(members: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) and members == (str, Ellipsis):
        return tuple(filter(None, map(str.strip, value.split(","))))
    if not isinstance(value, (list, tuple)):
        raise Gen3dError(f"{where} is {value!r}; expected a list")
    if len(members) == 2 and members[1] is Ellipsis:
        return tuple(convert(members[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(members) != len(value):
        raise Gen3dError(f"{where} has {len(value)} entries; expected {len(members)}")
    return tuple(convert(m, v, f"{where}[{i}]") for i, (m, v) in enumerate(zip(members, value, strict=True)))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
