"""Command lines derived from dataclasses: each field is an option, its comment the help."""

from __future__ import annotations

import argparse
import inspect
import io
import tokenize
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def command(
    name: str, doc: str | None, *options: type, epilog: str | None = None
) -> argparse.ArgumentParser:
    """The parser of a command of `experiments`, which its module's docstring explains."""
    parser = argparse.ArgumentParser(
        prog=f"experiments.{name}", description=doc, epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    for cls in options:
        add_options(parser, cls)
    return parser


def add_options(parser: argparse.ArgumentParser, cls: type, title: str | None = None) -> None:
    """Add an option for every field of a dataclass, `--field-name`."""
    group = parser.add_argument_group(title or cls.__name__, inspect.getdoc(cls))
    hints, comments = typing.get_type_hints(cls), field_comments(cls)
    for f in fields(cls):
        group.add_argument(
            f"--{f.name.replace('_', '-')}",
            dest=f.name,
            default=argparse.SUPPRESS,
            required=_default(f) is MISSING,
            help=_help(comments.get(f.name, ""), _default(f)),
            **_kind(hints[f.name]),
        )


def from_options(cls: Callable[..., T], options: argparse.Namespace) -> T:
    """The dataclass with the options that were given; all else keeps its default."""
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    try:
        return cls(**{k: v for k, v in vars(options).items() if k in names})
    except ValueError as error:
        raise SystemExit(f"error: --{error}") from error


def field_comments(cls: type) -> dict[str, str]:
    """The comment behind each field, inherited ones too: its documentation."""
    comments: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            comments |= _own_comments(base)
    return comments


def _own_comments(cls: type) -> dict[str, str]:
    comments: dict[str, str] = {}
    name, line = "", -1
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(cls)).readline):
        if token.type == tokenize.NAME and token.start[1] == 4 and token.start[0] != line:
            name, line = token.string, token.start[0]
        if token.type == tokenize.COMMENT and token.start[0] == line:
            comments[name] = token.string.lstrip("# ")
    return comments


def _default(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def _help(comment: str, default: Any) -> str:
    shown = "" if default is MISSING or default in (None, ()) else f" [{default}]"
    return f"{comment}{shown}".replace("%", "%%")


def _kind(hint: Any) -> dict[str, Any]:
    """How argparse reads a value of this type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _kind(next(a for a in args if a is not type(None)))
    if origin is typing.Literal:
        return {"choices": args, "type": type(args[0])}
    if origin in (tuple, Sequence):
        return {"nargs": "+", "type": args[0], "metavar": args[0].__name__.upper()}
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    return {"type": hint, "metavar": hint.__name__.upper()}
