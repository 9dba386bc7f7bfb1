"""What a neighbour may say. He has proved that he knows the secret; that his program is in order he has not.

Each check returns what is wrong, for the Bye and the log, or None.
"""

from __future__ import annotations

from collections.abc import Iterable

from director.core.addresses import canonical
from director.core.hosts import MAX_WEIGHT
from director.core.messages import HostRow, Token
from director.core.order import split_member
from director.core.users import LATEST, RECORD
from director.types import MemberId


def wrong_records(records: bytes) -> str | None:
    if len(records) % RECORD.size:
        return f"user records of {len(records)} bytes are no multiple of {RECORD.size}"
    return None


def wrong_rows(rows: Iterable[HostRow]) -> str | None:
    for row in rows:
        problem = _wrong_row(row)
        if problem is not None:
            return f"host row of {row.address!r} cannot be right: {problem}"
    return None


def wrong_token(token: Token) -> str | None:
    if token.lap not in (1, 2):
        return f"a token in lap {token.lap}"
    for member in [token.origin, *token.passed]:
        try:
            split_member(MemberId(member))
        except ValueError:
            return f"a token that passed {member!r}, which is not ADDRESS:PORT"
    return None


def _wrong_row(row: HostRow) -> str | None:
    try:
        if canonical(row.address) != row.address:
            return f"the address is written {canonical(row.address)}"
    except ValueError:
        return "not an address"
    if not 0 <= row.weight <= MAX_WEIGHT:
        return f"weight {row.weight} is not in 0..{MAX_WEIGHT}"
    for name, text in (("tag", row.tag), ("host name", row.hostname)):
        if not text.isprintable():
            return f"{name} {text!r}"
    for stamp in (row.present_at, row.tag_at, row.weight_at, row.up_at):
        if not 0 <= stamp <= LATEST:
            return f"stamp {stamp} is not in 0..{LATEST}"
    return None
