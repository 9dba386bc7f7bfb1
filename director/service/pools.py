"""What operators are told of pools: users stay in the pool of their tag."""

from __future__ import annotations

import shlex

from director.core.messages import HostRow
from director.errors import Refused


def pool_name(tag: str) -> str:
    return f"pool {tag}" if tag else "pool without a tag"


def which_tag(tag: str) -> str:
    """What to give for a user of this pool."""
    return f"give --tag {shlex.quote(tag)}" if tag else "give no tag"


def wrong_pool(row: HostRow, tag: str) -> Refused:
    """Why a user of the pool of `tag` cannot be moved to this host."""
    there = pool_name(row.tag)
    return Refused(
        f"{row.address} is in the {there}, the user in the {pool_name(tag)}: users stay in their pool; "
        f"to move the user of the {there}, {which_tag(row.tag)}"
    )
