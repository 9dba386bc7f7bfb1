"""`director config …`: the configuration file. These commands do not talk to a director."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from director.cli.groups import CommandGroup
from director.cli.output import print_error, print_json, print_line
from director.cli.sections import CONFIGURATION
from director.cli.target import Target, config_option, json_option
from director.errors import EX_CONFIG, DoveconfError, FileInTheWay

if TYPE_CHECKING:
    from director.dovecot.takeover import TakenOver

MARK = "#| "
"""Begins each line of the Dovecot snippet, so that the whole output is a valid director.toml."""


@CONFIGURATION.group(cls=CommandGroup)
def config() -> None:
    """Check, show or import the configuration file."""


@config.command()
@click.option(
    "--user",
    metavar="NAME[:GROUP]",
    help="Check as this user, such as User= of the director's unit; needs root.",
)
@json_option
@config_option
@click.pass_obj
def check(target: Target, user: str | None, as_json: bool) -> int:
    """Check the file and print every problem.

    A director does not start if its user cannot read one of its files: check as that user.
    Exit code 68: there is no such user.
    """
    from director.service.configuration.accounts import account
    from director.service.configuration.filecheck import check_file, check_file_as

    file = target.config_path
    if user is None:
        found = check_file(file, os.environ)
    else:
        found = check_file_as(account(user), file, os.environ)
    problems, warnings = found.problems, found.warnings
    if as_json:
        print_json(msgspec.json.encode({"file": file, "problems": problems, "warnings": warnings}))
        return EX_CONFIG if problems else 0
    for text in problems:
        print_error(text)
    for text in warnings:
        print_error(f"warning: {text}")
    if problems:
        return EX_CONFIG
    print_line(f"{file}: good")
    return 0


@config.command()
@json_option
@config_option
@click.pass_obj
def show(target: Target, as_json: bool) -> None:
    """Print the configuration in force, without secrets.

    Defaults are included.
    """
    import tomllib

    from director.service.configuration.config import show as shown
    from director.service.configuration.configfile import load

    toml = shown(load(target.config_path, os.environ))
    if as_json:
        print_json(msgspec.json.encode(tomllib.loads(toml)))
        return
    for line in toml.splitlines():
        print_line(line)


@config.command("import")
@click.argument("file", required=False)
@click.option(
    "--dovecot",
    type=click.Choice(["2.3", "2.4"]),
    default="2.3",
    help="Write the settings of Dovecot for this release; default: 2.3.",
)
@click.option("--write", metavar="FOLDER", help="Write director.toml and director-dovecot.conf into FOLDER.")
@json_option
def import_(file: str | None, dovecot: str, write: str | None, as_json: bool) -> None:
    """Make a director.toml from Dovecot 2.3's director settings.

    FILE is the output of `doveconf -n`, or a dovecot.conf without includes; `-` reads standard input.
    Without FILE, `doveconf -n` is run here. Prints a director.toml, the settings that were not carried over,
    and, in lines that begin with `#|`, what to add to Dovecot's own configuration. Names of directors are
    resolved; `$ENV:NAME` is read from the environment.
    """
    from director.dovecot.doveconf import read
    from director.dovecot.takeover import take_over
    from state.resolver import addresses_of

    name, text = _doveconf(file)
    taken = take_over(read(text, name), name, dovecot=dovecot, environ=os.environ, resolve=addresses_of)
    if write is not None:
        _write(Path(write), taken)
    if as_json:
        print_json(msgspec.json.encode(taken))
        return
    if write is not None:
        for title, notes in (("not carried over", taken.not_carried_over), ("note", taken.notes)):
            for note in notes:
                print_line(f"{title}: {note}")
        return
    for line in taken.toml.splitlines():
        print_line(line)
    print_line()
    print_line(f"# Append to Dovecot's configuration, without the marks (sed -n 's/^{MARK}//p'):")
    for line in taken.dovecot.splitlines():
        print_line(MARK + line)


def _doveconf(file: str | None) -> tuple[str, str]:
    """The name of the configuration for messages, and its text.

    Raises:
        DoveconfError: the file cannot be read, or doveconf fails.
    """
    from director.dovecot.doveconf import decoded

    if file == "-":
        return "standard input", decoded(sys.stdin.buffer.read())
    if file is not None:
        try:
            return file, decoded(Path(file).read_bytes())
        except OSError as error:
            raise DoveconfError(file, 0, error.strerror or str(error)) from error
    try:
        result = subprocess.run(["doveconf", "-n"], capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise DoveconfError(
            "doveconf", 0, f"cannot be run ({error.strerror}); give a FILE with the output of `doveconf -n`"
        ) from error
    if result.returncode:
        raise DoveconfError(
            "doveconf -n", 0, " ".join(result.stderr.split()) or f"exit code {result.returncode}"
        )
    return "doveconf -n", result.stdout


def _write(folder: Path, taken: TakenOver) -> None:
    files = {folder / "director.toml": taken.toml, folder / "director-dovecot.conf": taken.dovecot}
    for path in files:
        if path.exists():
            raise FileInTheWay(str(path), "it exists; move it away, or name another folder")
    for path, text in files.items():
        try:
            with path.open("x") as out:
                out.write(text)
        except OSError as error:
            raise FileInTheWay(str(path), error.strerror or str(error)) from error
        print_line(f"{path}: written")
