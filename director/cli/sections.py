"""The sections of the help of `director`. Each command is declared in its section: `@USERS.command()`."""

from __future__ import annotations

import click

RUN = click.Group("Run")
SHOW = click.Group("Show")
HOSTS = click.Group("Change hosts")
USERS = click.Group("Change users")
CONFIGURATION = click.Group("Configuration")
STORE = click.Group("Store")
SECTIONS = (RUN, SHOW, HOSTS, USERS, CONFIGURATION, STORE)
"""In the order of the help."""
