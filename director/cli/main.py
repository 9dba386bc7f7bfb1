"""The command `director`: its options, the sections of its help, and the exit code of each error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click

# The import of these modules declares their commands.
from director.cli import (  # noqa: F401
    config,
    doctor,
    flushes,
    hosts,
    migrate,
    moves,
    plan,
    reload,
    ring,
    run,
    state,
    status,
    users,
)
from director.cli.client import EX_INTERRUPTED
from director.cli.descriptors import open_standard
from director.cli.groups import SectionedGroup
from director.cli.output import OutputError, print_error
from director.cli.sections import SECTIONS
from director.cli.target import target_options
from director.errors import EX_USAGE, DirectorError


class Program(SectionedGroup):
    """The group of all commands. An error ends it with one line on stderr and an exit code of sysexits.h."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        open_standard()
        fixed = {"prog_name": "director", "standalone_mode": False}
        code = _outcome(lambda: super(Program, self).main(*args, **kwargs | fixed))
        sys.exit(_flushed(code))


def _outcome(command: Callable[[], object]) -> int:
    """Run the command and return its exit code. If the code is not 0, a line on stderr says why."""
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except click.UsageError as error:
        context = error.ctx.command_path if error.ctx is not None else "director"
        print_error(f"{error.format_message().rstrip('.')}; see `{context} --help`")
        return EX_USAGE
    except click.ClickException as error:
        print_error(error.format_message())
        return EX_USAGE
    except DirectorError as error:
        return _report(error)
    except (click.Abort, KeyboardInterrupt):
        return EX_INTERRUPTED


def _report(error: DirectorError) -> int:
    # A configuration can have several problems. Each gets its own line.
    for line in str(error).splitlines():
        print_error(line)
    return error.exit_code


def _flushed(code: int) -> int:
    """Flush standard output and return `code`, or 1 if the flush fails and `code` is 0."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if not code:
            _report(OutputError(error))
        # Python flushes again when it exits, and would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 1
    return code


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        run.print_version()
        context.exit()


@click.group(
    "director",
    cls=Program,
    sections=SECTIONS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="Exit codes: 0 done, 64 usage, 65 bad data, 68 no such host or user, 69 director or store "
    "not reachable, 70 internal error, 75 try again, 77 refused, 78 configuration, 130 interrupted.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and end.",
)
@target_options
@click.pass_context
def program(context: click.Context) -> int | None:
    """Send all sessions of a mail user to one backend.

    The commands talk to the director of this machine over its API socket; `state` and `migrate` open its
    store themselves.
    """
    if context.invoked_subcommand is not None:
        return None
    click.echo(context.get_help(), err=True)
    return EX_USAGE


def main() -> None:
    """The entry point of the installed command."""
    program()
