"""Groups of commands whose help has sections."""

from __future__ import annotations

from typing import Any

import click


class CommandGroup(click.Group):
    """A group whose help shows `sections` (title -> names of commands) instead of one list."""

    def __init__(self, *args: Any, sections: dict[str, list[str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Without this, click prints the help where the error message about the missing command belongs.
        self.no_args_is_help = False
        self.sections = sections

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
