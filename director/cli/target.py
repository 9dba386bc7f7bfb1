"""Which director the command line talks to, and which configuration it reads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from director.cli.client import Client
from director.errors import ConfigError

DEFAULT_CONFIG = "/etc/director/director.toml"
DEFAULT_SOCKET = "/run/director/api.sock"
DEFAULT_BASE_DIR = "/run/dovecot"

F = TypeVar("F", bound=Callable[..., Any])


class Target:
    """What `-c` and `-S` said, wherever on the command line they stood."""

    def __init__(self) -> None:
        # Not click's business: a command would take the variable for more recent than a `-c` before its name.
        self.config: str | None = os.environ.get("DIRECTOR_CONFIG") or None
        self.socket: str | None = None

    @property
    def config_path(self) -> str:
        return self.config or DEFAULT_CONFIG

    def client(self) -> Client:
        """The director to talk to, until the command ends."""
        where = self.socket or api_socket(self.config, os.environ)
        client = Client(where, token=os.environ.get("DIRECTOR_TOKEN"), config=self.config_path)
        click.get_current_context().call_on_close(client.close)
        return client


def api_socket(config: str | None, environ: Mapping[str, str]) -> str:
    """The path of `listen.api` in the file `config`. None is the default file, which need not be there.

    Reads only the keys it needs: a director must be reachable also when its file does not fit any more.
    """
    path = config or DEFAULT_CONFIG
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        if config is None:
            return DEFAULT_SOCKET
        raise ConfigError(path, "", None, "no such file; -c names it, -S names the socket instead") from None
    except OSError as error:
        raise ConfigError(
            path, "", None, f"cannot be read ({error.strerror}); -S names the socket instead"
        ) from None
    import tomllib  # only where there is a file: every command would pay for it

    try:
        tables = tomllib.loads(text.decode())
    except ValueError as error:
        raise ConfigError(path, "", None, f"not TOML: {error}") from None
    socket = _string(path, tables, "listen", "api", "path", default=DEFAULT_SOCKET)
    base_dir = _string(path, tables, "dovecot", "base_dir", default=DEFAULT_BASE_DIR)
    if not socket:
        raise ConfigError(path, "listen.api.path", "", "the API socket is off; -S names another way in")
    folder = os.path.join(os.path.dirname(os.path.abspath(path)), _expanded(base_dir, environ))
    return os.path.normpath(os.path.join(folder, _expanded(socket, environ)))


def _string(file: str, tables: Any, *keys: str, default: str) -> str:
    for position, key in enumerate(keys, 1):
        if not isinstance(tables, dict):
            raise ConfigError(file, ".".join(keys[: position - 1]), tables, "must be a table")
        if key not in tables:
            return default
        tables = tables[key]
    if not isinstance(tables, str):
        raise ConfigError(file, ".".join(keys), tables, "must be a string")
    return tables


def _expanded(value: str, environ: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: environ.get(match[1], match[0]), value)


def _remember(context: click.Context, option: click.Parameter, value: str | None) -> None:
    target = context.ensure_object(Target)
    if value is not None and option.name is not None:
        setattr(target, option.name, value)


config_option = click.option(
    "-c",
    "--config",
    metavar="FILE",
    expose_value=False,
    callback=_remember,
    help=f"The configuration (or DIRECTOR_CONFIG; {DEFAULT_CONFIG}).",
)
socket_option = click.option(
    "-S",
    "--socket",
    metavar="SOCKET|URL",
    expose_value=False,
    callback=_remember,
    help="Another director's API: a unix socket, or http://… with DIRECTOR_TOKEN.",
)


def target_options(command: F) -> F:
    """`-c` and `-S` after the name of the command as well as before it."""
    return config_option(socket_option(command))


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")


force_option = click.option(
    "--force", is_flag=True, help="Do it even if no other host of the pool can take the users."
)


def change_options(command: F) -> F:
    """What every changing command takes."""
    reason = click.option("--reason", metavar="TEXT", default="", help="Why; kept in the audit.")
    dry_run = click.option("--dry-run", is_flag=True, help="Say what would be, change nothing.")
    return target_options(dry_run(reason(command)))
