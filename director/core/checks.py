"""Checks of what neighbours send. A neighbour has proved that it has the secret, not that its program works.

Each check returns the text of the error, for the Bye and the log, or None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from director.core.moves.movestate import ROUND, SUBJECT
from director.core.placement.addresses import canonical
from director.core.placement.users import LATEST, MOST_USERS, RECORD
from director.core.protocol.kicktypes import (
    MOST_COUNTED,
    MOST_HOSTS,
    ByField,
    ByName,
    HashOnHosts,
    KickWhat,
    OnHost,
)
from director.core.protocol.messages import (
    HostRow,
    Hosts,
    KickRound,
    Leaving,
    MemberRow,
    Members,
    MoveRound,
    Names,
    NearRound,
    Present,
    Redirect,
    RingMessage,
    Token,
    Users,
)
from director.core.protocol.order import join_member
from director.core.protocol.texts import TEXT_LIMIT, shown, wrong_text
from director.core.ring.presence import LAST
from director.core.tables.hosts import MAX_WEIGHT
from director.core.tables.members import MOST_ROWS

NAME_LIMIT = 0xFFFF
"""Most bytes of a user name, or of a field's value."""
LONGEST_MEMBER = 53
"""Characters of an IPv6 address in brackets and a port."""
MOST_PASSED = 240
"""Most directors that a token can pass."""
_ADDRESSES = re.compile(r"(?:[0-9a-f:.]{2,45}\n)*+")
"""Lines that contain only characters of addresses."""


def wrong(message: RingMessage) -> str | None:
    """Return the error in a neighbour's message; None: none."""
    match message:
        case Users(records):
            return wrong_records(records)
        case Hosts(rows):
            return wrong_rows(rows)
        case Members(rows) if len(rows) > MOST_ROWS:
            return f"a list of {len(rows)} directors: at most {MOST_ROWS} are kept"
        case Members(rows):
            return wrong_members(rows)
        case Token() | MoveRound() | NearRound() | KickRound() if len(message.passed) > MOST_PASSED:
            return f"a token that has passed {len(message.passed)} members"
        case MoveRound() | KickRound() if len(message.late) > MOST_PASSED:
            return f"a token with {len(message.late)} members that were late"
        case MoveRound() if len(message.moves) > ROUND * SUBJECT.size:
            return f"a round about {len(message.moves) // SUBJECT.size} users"
        case Token():
            if message.lap not in (1, 2):
                return f"a token in lap {message.lap}"
            if not 0 <= message.limit <= MOST_USERS:
                return f"a token with a limit of {message.limit} users"
            return _wrong_names([message.origin, *message.passed])
        case MoveRound():
            if len(message.moves) % SUBJECT.size:
                return f"a round about {len(message.moves)} bytes, no multiple of {SUBJECT.size}"
            return _wrong_count(message.kicked) or _wrong_names(
                [message.origin, *message.passed, *message.late]
            )
        case KickRound() if message.lap not in (1, 2):
            return f"a kick in lap {message.lap}"
        case NearRound() if not 0 <= message.seen <= LATEST or not 0 <= message.key < 1 << 64:
            return f"a round about key {message.key}, seen {message.seen}"
        case NearRound():
            return _wrong_names([message.origin, *message.passed])
        case KickRound():
            names = [message.origin, *message.passed, *message.late]
            problem = wrong_kick(message.what) or (wrong_kick(message.count) if message.count else None)
            return _wrong_count(message.kicked) or problem or _wrong_names(names)
        case Names(_, hops) if hops < 0:
            return f"names for {hops} members"
        case Redirect(member):
            return _wrong_names([member])
        case Leaving(member, incarnation) | Present(member, incarnation):
            if not 0 <= incarnation <= LAST:
                return f"a word of {member} with the incarnation {incarnation}"
            return _wrong_names([member])
    return None


def wrong_records(records: bytes) -> str | None:
    if len(records) % RECORD.size:
        return f"user records of {len(records)} bytes are no multiple of {RECORD.size}"
    return None


def wrong_rows(rows: Iterable[HostRow]) -> str | None:
    for row in rows:
        problem = _wrong_row(row)
        if problem is not None:
            return f"host row of {shown(row.address)} cannot be right: {problem}"
    return None


def wrong_members(rows: Iterable[MemberRow]) -> str | None:
    for row in rows:
        problem = _wrong_names([row.member])
        if problem is not None or not 0 <= row.at <= LATEST:
            return problem or f"the row of {row.member} has the stamp {row.at}"
        if row.name and not re.fullmatch(r"[^\s:]{1,255}:[0-9]{1,5}", row.name):
            return f"the row of {row.member} has the name {shown(row.name)}"
    return None


def _wrong_names(members: Iterable[str]) -> str | None:
    for member in members:
        if len(member) > LONGEST_MEMBER or not _is_member(member):
            return f"a member {shown(member)}, which is not ADDRESS:PORT"
    return None


@lru_cache(maxsize=4096)
def _is_member(member: str) -> bool:
    """Whether the text is a director, ADDRESS:PORT.

    Cached, because each token of a large ring names all directors.
    """
    text, _, port = member.rpartition(":")
    if not re.fullmatch("[1-9][0-9]{0,4}", port) or int(port) > 65535:
        return False
    if text.startswith("[") is not (":" in text):
        return False
    address = text[1:-1] if text.endswith("]") else text
    try:
        return join_member(canonical(address), int(port)) == member
    except ValueError:
        return False


def _wrong_count(sessions: int) -> str | None:
    return None if 0 <= sessions <= MOST_COUNTED else f"a count of {sessions} sessions"


def wrong_kick(what: KickWhat) -> str | None:
    """Return the error in a kick from a neighbour or an operator; None: none."""
    match what:
        case HashOnHosts(_, hosts) if len(hosts) > MOST_HOSTS:
            return f"a kick on {len(hosts)} hosts"
        case HashOnHosts(hash32, hosts):
            if not 0 <= hash32 < 1 << 32:
                return f"a kick of the hash {hash32}"
            return _wrong_hosts(hosts)
        case OnHost(host):
            return _wrong_address(host)
        case ByName(name) if len(name) > NAME_LIMIT:
            return f"a kick of a name of {len(name)} bytes"
        case ByField(field, value) if len(field) > TEXT_LIMIT or len(value) > NAME_LIMIT:
            return f"a kick by a field of {len(field)} characters, {len(value)} bytes"
    return None


def _wrong_hosts(hosts: Sequence[str]) -> str | None:
    """Return the error in the hosts of a kick; None: none.

    The form of each address is not checked: with thousands of hosts that took 30 ms. An address that is not
    in canonical form matches no session.
    """
    lines = "\n".join([*hosts, ""])
    if lines.count("\n") == len(hosts) and _ADDRESSES.fullmatch(lines):
        return None
    wrong = next(host for host in hosts if "\n" in host or not _ADDRESSES.fullmatch(f"{host}\n"))
    return f"a kick on the host {shown(wrong)}, which is not an address"


def _wrong_address(host: str) -> str | None:
    try:
        if canonical(host) == host:
            return None
    except ValueError:
        pass
    return f"a kick on the host {shown(host)}, which is not an address"


def _wrong_row(row: HostRow) -> str | None:
    try:
        if canonical(row.address) != row.address:
            return f"the address is written {canonical(row.address)}"
    except ValueError:
        return "not an address"
    if not 0 <= row.weight <= MAX_WEIGHT:
        return f"weight {row.weight} is not in 0..{MAX_WEIGHT}"
    for name, text in (("tag", row.tag), ("host name", row.hostname), ("former name", row.moved)):
        problem = wrong_text(name, text)
        if problem is not None:
            return problem
    for stamp in (row.present_at, row.tag_at, row.weight_at, row.up_at):
        if not 0 <= stamp <= LATEST:
            return f"stamp {stamp} is not in 0..{LATEST}"
    return None
