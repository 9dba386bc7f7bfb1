"""The director that a command talks to, and the configuration file that it reads."""

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
    """The values of `-c` and `-S`, which may stand before or after the name of the command."""

    def __init__(self) -> None:
        # click must not read the variable: it would prefer the variable to a `-c` before the command's name.
        self.config: str | None = os.environ.get("DIRECTOR_CONFIG") or None
        self.socket: str | None = None

    @property
    def config_path(self) -> str:
        return self.config or DEFAULT_CONFIG

    def client(self) -> Client:
        """A client of the director. It is closed when the command ends.

        Raises:
            ConfigError: the configuration file does not say where the director listens.
        """
        where = self.socket or api_socket(self.config, os.environ)
        client = Client(where, token=os.environ.get("DIRECTOR_TOKEN"), config=self.config_path)
        click.get_current_context().call_on_close(client.close)
        return client


def api_socket(config: str | None, environ: Mapping[str, str]) -> str:
    """The path of `listen.api`.

    Reads only the keys it needs: a running director must be reachable even if its file is no longer valid.

    Args:
        config: path of the configuration file. None means the default file, which need not exist.
        environ: values for `${NAME}` in the file.

    Raises:
        ConfigError: the file cannot be read, or turns the socket off.
    """
    path = config or DEFAULT_CONFIG
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        if config is None:
            return DEFAULT_SOCKET
        raise ConfigError(
            path, "", None, "no such file; name the file with -c, or the socket with -S"
        ) from None
    except OSError as error:
        raise ConfigError(
            path, "", None, f"cannot be read ({error.strerror}); name the socket with -S"
        ) from None
    import tomllib  # imported here: without a file, no command needs it

    try:
        tables = tomllib.loads(text.decode())
    except ValueError as error:
        raise ConfigError(path, "", None, f"not TOML: {error}") from None
    socket = _string(path, tables, "listen", "api", "path", default=DEFAULT_SOCKET)
    base_dir = _string(path, tables, "dovecot", "base_dir", default=DEFAULT_BASE_DIR)
    if not socket:
        raise ConfigError(
            path, "listen.api.path", "", "the API socket is off; name another socket or URL with -S"
        )
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
    help=f"Read this configuration; default: the file in DIRECTOR_CONFIG, then {DEFAULT_CONFIG}.",
)
socket_option = click.option(
    "-S",
    "--socket",
    metavar="SOCKET|URL",
    expose_value=False,
    callback=_remember,
    help="Talk to this API: a unix socket, or http://… with DIRECTOR_TOKEN.",
)


def target_options(command: F) -> F:
    """Add `-c` and `-S`, so that they may stand after the name of the command too."""
    return config_option(socket_option(command))


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of a table."
)


force_option = click.option("--force", is_flag=True, help="Do it even if the pool has no other usable host.")


def change_options(command: F) -> F:
    """Add the options of every changing command."""
    reason = click.option("--reason", metavar="TEXT", default="", help="Write this reason to the audit.")
    dry_run = click.option("--dry-run", is_flag=True, help="Print what would change; change nothing.")
    return target_options(dry_run(reason(command)))
