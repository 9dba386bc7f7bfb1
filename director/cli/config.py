"""`director config …`: the configuration file. These commands ask no director."""

from __future__ import annotations

import os

import click
import msgspec

from director.cli.groups import Commands
from director.cli.output import complain, say, say_json
from director.cli.target import Target, config_option, json_option
from director.errors import EX_CONFIG, ConfigErrors


@click.group(cls=Commands)
def config() -> None:
    """The configuration file."""


@config.command()
@json_option
@config_option
@click.pass_obj
def check(target: Target, as_json: bool) -> int:
    """Say everything that is wrong with the file."""
    from director.service.config import load

    file = target.config_path
    problems: list[str] = []
    warnings: tuple[str, ...] = ()
    try:
        warnings = load(file, os.environ).warnings
    except ConfigErrors as error:
        problems = [str(problem) for problem in error.problems]
    if as_json:
        say_json(msgspec.json.encode({"file": file, "problems": problems, "warnings": warnings}))
        return EX_CONFIG if problems else 0
    for text in problems:
        complain(text)
    for text in warnings:
        complain(f"warning: {text}")
    if problems:
        return EX_CONFIG
    say(f"{file}: good")
    return 0


@config.command()
@json_option
@config_option
@click.pass_obj
def show(target: Target, as_json: bool) -> None:
    """Print the configuration in force, defaults included, secrets hidden."""
    import tomllib

    from director.service import config as configuration

    toml = configuration.show(configuration.load(target.config_path, os.environ))
    if as_json:
        say_json(msgspec.json.encode(tomllib.loads(toml)))
        return
    for line in toml.splitlines():
        say(line)
