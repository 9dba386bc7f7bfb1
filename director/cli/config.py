"""`director config …`: the configuration file. These commands ask no director."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from director.cli.groups import CommandGroup
from director.cli.output import complain, say, say_json
from director.cli.target import Target, config_option, json_option
from director.errors import EX_CONFIG, DoveconfError, FileInTheWay

if TYPE_CHECKING:
    from director.dovecot.takeover import TakenOver

MARK = "#| "
"""Before each line of the Dovecot snippet, so that all that is printed is a director.toml."""


@click.group(cls=CommandGroup)
def config() -> None:
    """The configuration file."""


@config.command()
@click.option(
    "--user",
    metavar="NAME[:GROUP]",
    help="Check as this user, such as User= of the director's unit; only root can.",
)
@json_option
@config_option
@click.pass_obj
def check(target: Target, user: str | None, as_json: bool) -> int:
    """Say everything that is wrong with the file.

    Files that the director's user cannot read keep it from starting: check as that user.
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

    from director.service.configuration import config as configuration

    toml = configuration.show(configuration.load(target.config_path, os.environ))
    if as_json:
        say_json(msgspec.json.encode(tomllib.loads(toml)))
        return
    for line in toml.splitlines():
        say(line)


@config.command("import")
@click.argument("file", required=False)
@click.option(
    "--dovecot",
    type=click.Choice(["2.3", "2.4"]),
    default="2.3",
    help="For which Dovecot the snippet is; 2.3.",
)
@click.option("--write", metavar="FOLDER", help="Write director.toml and director-dovecot.conf into FOLDER.")
@json_option
def import_(file: str | None, dovecot: str, write: str | None, as_json: bool) -> None:
    """Take over from a director of Dovecot 2.3.

    FILE is what `doveconf -n` prints there, or a dovecot.conf without includes; `-` reads standard input.
    Without FILE, doveconf of this machine is asked. Prints a director.toml, what it could not carry over,
    and, marked with `#|`, what to add to Dovecot's own configuration. Names of directors are looked up;
    `$ENV:NAME` is taken from the environment.
    """
    from director.dovecot.doveconf import read
    from director.dovecot.takeover import take_over
    from state.resolver import addresses_of

    name, text = _doveconf(file)
    taken = take_over(read(text, name), name, dovecot=dovecot, environ=os.environ, resolve=addresses_of)
    if write is not None:
        _write(Path(write), taken)
    if as_json:
        say_json(msgspec.json.encode(taken))
        return
    if write is not None:
        for title, notes in (("not carried over", taken.left_out), ("mind", taken.mind)):
            for note in notes:
                say(f"{title}: {note}")
        return
    for line in taken.toml.splitlines():
        say(line)
    say()
    say(f"# Into Dovecot's configuration, at its end, without the marks (sed -n 's/^{MARK}//p'):")
    for line in taken.dovecot.splitlines():
        say(MARK + line)


def _doveconf(file: str | None) -> tuple[str, str]:
    """What the configuration is called, and its text. Raises DoveconfError where it is not to be had."""
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
        raise DoveconfError("doveconf", 0, f"{error.strerror}; give a file with what it prints") from error
    if result.returncode:
        raise DoveconfError(
            "doveconf -n", 0, " ".join(result.stderr.split()) or f"exit code {result.returncode}"
        )
    return "doveconf -n", result.stdout


def _write(folder: Path, taken: TakenOver) -> None:
    files = {folder / "director.toml": taken.toml, folder / "director-dovecot.conf": taken.dovecot}
    for path in files:
        if path.exists():
            raise FileInTheWay(str(path), "it is there already and is not written over")
    for path, text in files.items():
        try:
            with path.open("x") as out:
                out.write(text)
        except OSError as error:
            raise FileInTheWay(str(path), error.strerror or str(error)) from error
        say(f"{path}: written")
