"""`$NAME` and `$ENV:NAME` in Dovecot's configuration, which doveconf prints as they are written."""

from __future__ import annotations

from collections.abc import Mapping
from re import Match

from director.dovecot.doveconf import VARIABLE, Block

ENVIRONMENT = "ENV:"
FROM_FILE = "<"
"""The beginning of a value that Dovecot reads from a file."""
DEFAULTS = {
    "base_dir": "/var/run/dovecot",
    "default_internal_group": "dovecot",
    "default_internal_user": "dovecot",
    "default_login_user": "dovenull",
}
"""Default values of settings that other settings refer to; `doveconf -n` does not print them."""


def replace_variables(root: Block, environ: Mapping[str, str]) -> tuple[Block, set[str]]:
    """A copy of the tree with variables replaced, and the names that came from `environ`.

    A variable without a known value stays as it is: `unknown` finds it.
    """
    used: set[str] = set()

    def replaced(text: str, within: tuple[str, ...] = ()) -> str:
        def value_of(match: Match[str]) -> str:
            name = match[1]
            if name.startswith(ENVIRONMENT):
                variable = name.removeprefix(ENVIRONMENT)
                if variable not in environ:
                    return match[0]
                used.add(name)
                return environ[variable]
            if name in within or (found := root.settings.get(name, DEFAULTS.get(name))) is None:
                return match[0]
            return replaced(found, (*within, name))

        return VARIABLE.sub(value_of, text)

    def copy(block: Block) -> Block:
        return Block(
            kind=block.kind,
            name=block.name,
            settings={name: replaced(value) for name, value in block.settings.items()},
            blocks=[copy(inner) for inner in block.blocks],
        )

    return copy(root), used


def why_unknown(value: str) -> str:
    """The reason why a value is not known here after its variables were replaced; empty: it is known."""
    if value.startswith(FROM_FILE):
        return "Dovecot reads the value from this file"
    match = VARIABLE.search(value)
    if match is None:
        return ""
    if match[1].startswith(ENVIRONMENT):
        return f"{match[1].removeprefix(ENVIRONMENT)} is not set in the environment of this command"
    return f"the configuration does not set ${match[1]}"
