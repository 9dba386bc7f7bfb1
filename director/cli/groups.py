"""Groups of commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


class CommandGroup(click.Group):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Without this, click prints the help where the error message about the missing command belongs.
        self.no_args_is_help = False


class SectionedGroup(CommandGroup):
    """A group of the commands of `sections`, whose help shows the sections instead of one list."""

    def __init__(self, *args: Any, sections: Sequence[click.Group], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections
        for section in sections:
            self.commands.update(section.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        limit = formatter.width - 6 - width
        for section in self._sections:
            with formatter.section(str(section.name)):
                formatter.write_dl(
                    [
                        (name.ljust(width), command.get_short_help_str(limit))
                        for name, command in sorted(section.commands.items())
                    ]
                )
