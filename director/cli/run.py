"""Commands that run something here, instead of asking a director."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

import click

from director.cli.output import say
from director.cli.target import Target, config_option


def release() -> str:
    """The version that is installed."""
    try:
        return installed_version("mail-director")
    except PackageNotFoundError:
        return "unknown, not installed"


@click.command()
@click.option("--check", is_flag=True, help="Only check configuration, store and sockets.")
@config_option
@click.pass_obj
def serve(target: Target, check: bool) -> int:
    """Run the director."""
    from director.service.app import run

    return run(target.config_path, check=check)


@click.command()
@click.option("--once", is_flag=True, help="End after the check; fail where anything differs.")
def demo(once: bool) -> int:
    """Show it: three directors between real mail servers, on loopback."""
    from director.demo.demo import run

    return run(once)


@click.command()
def version() -> None:
    """Print the version."""
    say(f"director {release()}")
