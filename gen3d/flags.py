"""From the words of a command line to dataclasses: what tyro leaves to do.

tyro turns the fields of a dataclass into flags and their docstrings into help. Here its complaints become
one line, the options of a domain join those of a verb, and dotted names override keys of a configuration.
"""

import contextlib
import dataclasses
import inspect
import io
import re
import typing
from collections.abc import Sequence
from typing import Any

import tyro
import yaml
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from gen3d.config import merge
from gen3d.errors import Gen3dError

HIDDEN = ("options", "overrides")
"""Fields of verbs that are no flags."""
RENAMED = {"init_from": "from", "class_name": "class"}
"""Fields whose flag has a name that Python reserves."""


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """The value that `flag` has in `argv`, written `--flag value` or `--flag=value`; the last one wins."""
    value = None
    for i, token in enumerate(argv):
        if token == flag and i + 1 < len(argv):
            value = argv[i + 1]
        elif token.startswith(f"{flag}="):
            value = token.partition("=")[2]
    return value


def flag_names(kind: type) -> list[str]:
    """The flags that the fields of a dataclass become."""
    visible = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in HIDDEN and Positional not in getattr(f.type, "__metadata__", ())
    ]
    return [f"--{RENAMED.get(name, name).replace('_', '-')}" for name in visible]


def parse_flags(
    verb: str, kind: type, argv: Sequence[str], options: type | None, domain: str
) -> tuple[Any, list[str]]:
    """Build the dataclass `kind` from `argv`, and `options` of `domain` in its field of that name.

    Returns:
        The instance, and the words that are no flags.

    Raises:
        Gen3dError: a required flag is missing, or a value does not fit its flag.
    """
    if options is None:
        return _tyro(kind, verb, kind, argv)
    name = domain.replace("-", "_")
    both = dataclasses.make_dataclass("both", [("common", kind), (name, options)], frozen=True)
    parsed, unknown = _tyro(OmitArgPrefixes[both], verb, kind, argv)  # type: ignore[misc]
    return dataclasses.replace(parsed.common, options=getattr(parsed, name)), unknown


def _tyro(form: Any, verb: str, kind: type, argv: Sequence[str]) -> tuple[Any, list[str]]:
    """Parse with tyro, whose boxed complaints become one line."""
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_assignments)
    registry.primitive_rule(_comma_separated)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                form,
                prog=f"gen3d {verb}",
                description=inspect.getdoc(kind),
                args=list(argv),
                return_unknown_args=True,
                config=(FlagCreatePairsOff,),
                registry=registry,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise Gen3dError(_one_line(complaint.getvalue())) from None


def _assignments(info: Any) -> Any:
    """Flags of a dict type are written NAME=VALUE, several separated by spaces; NAME alone means true."""
    if typing.get_origin(info.type) is not dict:
        return None

    def read(words: list[str]) -> dict[str, Any]:
        pairs = [word.partition("=") for word in words]
        try:
            return {name: yaml.safe_load(value) if equals else True for name, equals, value in pairs}
        except yaml.YAMLError:
            raise ValueError(f"{' '.join(words)!r} is not NAME=VALUE") from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME[=VALUE] ...",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{name}={number}" for name, number in value.items()],
    )


def _comma_separated(info: Any) -> Any:
    """Flags of type tuple[str, ...] are words separated by commas or spaces."""
    if info.type != tuple[str, ...]:
        return None

    def read(words: list[str]) -> tuple[str, ...]:
        parts = tuple(part for word in words for part in word.split(",") if part)
        if not parts:
            raise ValueError("at least one word is needed")
        return parts

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="WORD[,WORD ...]",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(value)],
    )


def _one_line(box: str) -> str:
    """The message inside one of tyro's boxes, up to its first rule."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]:
        text = line.strip("│ ")
        if set(text) <= set("─╰╯"):
            break
        lines.append(text)
    return " ".join(lines) or "the arguments cannot be read"


def dotted_overrides(tokens: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Dotted flags, `--a.b value` or `--a.b=value`, as nested mappings, and the tokens that are none."""
    nested: dict[str, Any] = {}
    rest: list[str] = []
    todo = list(tokens)
    while todo:
        token = todo.pop(0)
        key, equals, text = token.partition("=")
        if not re.fullmatch(r"--\w[\w-]*(\.\w[\w-]*)+", key):
            rest.append(token)
            continue
        if not equals:
            if not todo:
                raise Gen3dError(f"{key} needs a value")
            text = todo.pop(0)
        value = _value(key, text)
        for name in reversed(key[2:].replace("-", "_").split(".")):
            value = {name: value}
        nested = merge(nested, value)
    return nested, rest


def _value(key: str, text: str) -> Any:
    """A YAML value; numbers such as 1e-4 too, which YAML 1.1 takes for words."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise Gen3dError(f"{key} is {text!r}, which is no YAML value") from None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value
