"""Draws the state machines of `ring.md` from the tables in the code: `python docs/diagrams.py` does it anew.

`tests/unit/test_docs.py` fails where the page is not up to date.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

from director.core.moves import movestate
from director.core.ring import link
from director.stored import connection

PAGE = Path(__file__).with_name("ring.md")
S = TypeVar("S", bound=Enum)


def drawn(first: S, table: Mapping[S, frozenset[S]]) -> str:
    """A Mermaid diagram of a table of transitions."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first.name}"]
    for state in type(first):
        ways = table[state]
        lines += [f"    {state.name} --> {to.name}" for to in type(first) if to in ways]
        if not ways:
            lines.append(f"    {state.name} --> [*]")
    return "\n".join([*lines, "```"])


DIAGRAMS = {
    "link": drawn(link.LinkState.GREETING, link.TRANSITIONS),
    "store": drawn(connection.ConnectionState.CLOSED, connection.TRANSITIONS),
    "move": drawn(movestate.Stage.STORING, movestate.TRANSITIONS),
}


def up_to_date(page: str) -> str:
    """The page with its diagrams as the code has them now. Raises ValueError where a marker is missing."""
    for name, diagram in DIAGRAMS.items():
        pattern = rf"(<!-- diagram: {name} -->\n).*?(\n<!-- end -->)"
        page, count = re.subn(
            pattern, lambda found, d=diagram: found[1] + d + found[2], page, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"{count} places for the diagram {name!r} in {PAGE.name}, 1 is needed")
    return page


if __name__ == "__main__":
    PAGE.write_text(up_to_date(PAGE.read_text()))
