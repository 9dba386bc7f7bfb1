"""Numbers as arguments of commands. A negative number is a wrong number, not an unknown option."""

from __future__ import annotations

import re
from typing import Any

import click

from director.cli.client import Failure
from director.errors import EX_DATA

LARGEST_WEIGHT = 1000


class Weight(click.types.IntParamType):
    """A number of vhosts."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        number: int = super().convert(value, param, context)
        if number < 0:
            raise Failure(f"vhost count too small: {number}; 0 to {LARGEST_WEIGHT} are possible", EX_DATA)
        return number


class NumberCommand(click.Command):
    """A command whose last argument is a number."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(context, args)
        except click.NoSuchOption as error:
            number = next((word for word in given if re.fullmatch(r"-\d+", word)), None)
            if number is None or not number.startswith(error.option_name):
                raise
            argument = [parameter for parameter in self.params if isinstance(parameter, click.Argument)][-1]
            argument.type.convert(number, argument, context)
            raise
