"""Commands that run a program here instead of talking to a director. Each imports its program when needed."""

from __future__ import annotations

import os

import click

from director.cli.output import print_error, print_line
from director.cli.sections import RUN
from director.cli.target import Target, config_option


def print_version() -> None:
    # Imported here: looking up the installed version takes as long as a whole command.
    from director.version import VERSION

    print_line(f"director {VERSION}")


@RUN.command()
@click.option("--check", is_flag=True, help="Check configuration, store and sockets, then end.")
@click.option("--can-take-over", metavar="FORMAT", type=int, hidden=True)
@config_option
@click.pass_obj
def serve(target: Target, check: bool, can_take_over: int | None) -> int:
    """Run the director in the foreground.

    The log goes to stderr. SIGTERM stops the director; SIGHUP does what `reload` does, SIGUSR2 what `reload
    --exec` does.
    """
    from director.service import serve as process

    if can_take_over is not None:  # a director asks this before it runs this program in its place
        return process.can_take_over(target.config_path, can_take_over)
    return process.run(target.config_path, check=check)


@RUN.command()
@config_option
@click.pass_obj
def keep(target: Target) -> None:
    """Hold the sockets to Dovecot open while no director runs.

    For a director in its own container: run this command beside Dovecot, as the
    director's user. Elsewhere a director starts a keeper by itself, or systemd holds
    the sockets.
    """
    from director.service.configuration.configfile import load_for_keeper
    from director.service.lifecycle.keeper import keep as run_keeper

    run_keeper(load_for_keeper(target.config_path, os.environ), print_error)


@RUN.command()
@click.option("--once", is_flag=True, help="End after the check; fail if anything differs.")
def demo(once: bool) -> int:
    """Run three directors with real Dovecot on loopback addresses.

    300 users log in, all directors restart, and the users log in again: every user must have the same host as
    before. Then the cluster runs until Ctrl-C, which removes it.
    """
    from director.demo.demo import run

    return run(once)


@RUN.command()
def version() -> None:
    """Print the version."""
    print_version()
