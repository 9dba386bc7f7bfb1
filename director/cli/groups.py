"""Groups of commands: help in sections, and a clear word for what this release does not offer."""

from __future__ import annotations

from typing import Any

import click

from director.errors import NotOffered

NOT_OFFERED = {
    "director": frozenset({"explain", "health", "audit"}),
}
"""Names the documentation has, by group. Not in help; each is answered with exit code 77."""


class Commands(click.Group):
    """A group whose help shows `sections` (title -> names of commands) instead of one list."""

    def __init__(self, *args: Any, sections: dict[str, list[str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Help in place of a missing command is no error message.
        self.no_args_is_help = False
        self.sections = sections

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in NOT_OFFERED.get(self.name or "", ()):
            return _not_offered(cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.sections is None:
            super().format_commands(ctx, formatter)
            return
        width = max(map(len, self.commands))
        for title, names in self.sections.items():
            with formatter.section(title):
                limit = formatter.width - 6 - width
                formatter.write_dl(
                    [(name.ljust(width), self.commands[name].get_short_help_str(limit)) for name in names]
                )


def _not_offered(name: str) -> click.Command:
    @click.pass_context
    def refuse(context: click.Context) -> None:
        raise NotOffered(f"`{context.command_path}` is not offered by this release")

    return click.Command(
        name,
        callback=refuse,
        hidden=True,
        context_settings={
            "ignore_unknown_options": True,
            "allow_extra_args": True,
            "help_option_names": [],
        },
    )
