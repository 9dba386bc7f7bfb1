"""Commands that run something here, instead of asking a director. What they run is imported when they do."""

from __future__ import annotations

import os

import click

from director.cli.output import complain, say
from director.cli.target import Target, config_option


def say_version() -> None:
    # The look-up of what is installed costs as much as a whole command.
    from director.version import VERSION

    say(f"director {VERSION}")


@click.command()
@click.option("--check", is_flag=True, help="Only check configuration, store and sockets.")
@click.option("--can-take-over", metavar="FORMAT", type=int, hidden=True)
@config_option
@click.pass_obj
def serve(target: Target, check: bool, can_take_over: int | None) -> int:
    """Run the director."""
    from director.service import serve as process

    if can_take_over is not None:  # asked by a director whose program is to be replaced by this one
        return process.can_take_over(target.config_path, can_take_over)
    return process.run(target.config_path, check=check)


@click.command()
@config_option
@click.pass_obj
def keep(target: Target) -> None:
    """Hold the sockets to Dovecot while no director runs.

    For a director in a container of its own: run it beside Dovecot, as the same user
    as the director. Elsewhere a director starts a keeper by itself, or the service
    manager holds the sockets.
    """
    from director.service.configuration.config import load_for_keeper
    from director.service.lifecycle.keeper import keep as run_keeper

    run_keeper(load_for_keeper(target.config_path, os.environ), complain)


@click.command()
@click.option("--once", is_flag=True, help="End after the check; fail where anything differs.")
def demo(once: bool) -> int:
    """Show it: three directors between real mail servers, on loopback."""
    from director.demo.demo import run

    return run(once)


@click.command()
def version() -> None:
    """Print the version."""
    say_version()
