"""Dataclasses -> a command line. The one owner of jsonargparse."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Optional, TypeVar

import jsonargparse

T = TypeVar("T")


class Parser(jsonargparse.ArgumentParser):
    """A command line whose errors say which flag was probably meant, and whose switches need no value."""

    remedy = ""  # what to do about an error; by default, to look at --help

    def error(self, message: str, ex: Optional[Exception] = None) -> Any:
        flags = [option for action in self._actions for option in action.option_strings]
        for word in message.replace("'", " ").split():
            flag = word.split("=")[0]
            if flag.startswith("--") and flag not in flags:
                message += did_you_mean(flag, flags)
        sys.exit(f"{self.prog}: {message}\n{self.remedy or f'All settings: {self.prog} --help'}")


def parser_of(*kinds: type, prog: str, description: str) -> Parser:
    """Returns a parser with a flag for each field of the dataclasses: `--field`, or `--field.inner` where they nest."""
    parser = Parser(prog=prog, description=description, allow_abbrev=False)
    for kind in kinds:
        parser.add_class_arguments(kind, as_positional=False)
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool:
            action.nargs, action.const = "?", True  # --resume is --resume true
    return parser


def build(kind: type[T], parser: Parser, values: Any) -> T:
    """Returns the dataclass that the parsed values describe.

    Exits as for any wrong flag where the dataclass refuses a value.
    """
    make = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name until jsonargparse 4.49
    try:
        made = make(values)
        return kind(**{field.name: made[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
    except ValueError as error:
        return parser.error(str(error))


def read(kind: type[T], argv: Sequence[str], *, prog: str, description: str) -> T:
    """Returns the dataclass that a command line describes; exits, saying why, where there is none."""
    parser = parser_of(kind, prog=prog, description=description)
    return build(kind, parser, parser.parse_args(list(argv)))


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Returns " Did you mean X?" with the option nearest to `word`, "" where none is near."""
    near = difflib.get_close_matches(word, list(options), n=1)
    return f" Did you mean {near[0]}?" if near else ""
