"""Lies of a member that has the secret. They keep to the protocol: `core/checks.py` accepts every message.

Each function of LIES draws messages. A lie may name users, and the invariants promise nothing for these
users. Changed hosts would move users that are not named, as an operator's change does; so lies about hosts
keep their values, with stamps far ahead.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from director.core.moves.movestate import SUBJECT
from director.core.placement.addresses import host_id
from director.core.placement.users import BY_HAND, LATEST, MOVING, PINNED, User, pack
from director.core.protocol.kicktypes import ByName, Fence, KickWhat
from director.core.protocol.messages import (
    Bye,
    Digests,
    ExchangeDone,
    Hosts,
    KickRound,
    Leaving,
    Linked,
    MemberRow,
    Members,
    MoveRound,
    NearRound,
    Pong,
    Present,
    Redirect,
    RingMessage,
    Summaries,
    Token,
    Users,
)
from director.core.protocol.stamps import AHEAD
from director.core.ring.presence import LAST
from director.core.tables.members import MOST_ROWS
from director.types import Address, MemberId, Stamp
from tests.simulation.world import HASH, Node, World

User_ = tuple[str, str]
MADE_UP = MemberId("127.9.9.9:9090")
"""A director that does not exist."""


class Liar:
    """A member that lies, and the random choices of its lies."""

    def __init__(self, world: World, node: Node, users: Sequence[User_], chance: random.Random) -> None:
        self.world, self.node, self.chance = world, node, chance
        self._users = users
        self.named: set[User_] = set()
        """Users that a lie has named."""

    @property
    def unix(self) -> int:
        return int(self.node.unix)

    def member(self) -> MemberId:
        """Return a director that is not the liar."""
        return self.chance.choice([member for member in self.world.members if member != self.node.member])

    def members(self) -> list[str]:
        """Return some directors in any order, perhaps with one that does not exist."""
        many = self.chance.randrange(1, len(self.world.members) + 1)
        made_up = [MADE_UP] if self.chance.random() < 0.2 else []
        return [*self.chance.sample(self.world.members, many), *made_up]

    def key(self) -> int:
        """Return the key of a user, who counts as named from now on."""
        user = self.chance.choice(self._users)
        self.named.add(user)
        return HASH.key(user[0].encode(), user[1].encode())

    def number(self, of: MemberId) -> int:
        """Return a number near the incarnation of this member, or far above all."""
        now = self.world.nodes[of].core.ring.presence.number
        return min(self.chance.choice([now - 5, now, now + 1, now + 10**9, 1 << 61, LAST]), LAST)


def _departure(liar: Liar) -> list[RingMessage]:
    member = liar.member()
    return [Leaving(member, liar.number(member))]


def _departures(liar: Liar) -> list[RingMessage]:
    """The departures of all other directors."""
    others = [member for member in liar.world.members if member != liar.node.member]
    return [Leaving(member, liar.number(member)) for member in others]


def _presence(liar: Liar) -> list[RingMessage]:
    member = liar.member()
    return [Present(member, liar.number(member))]


def _made_up_members(liar: Liar) -> list[RingMessage]:
    many = liar.chance.choice([1, 20, MOST_ROWS])
    tops = liar.chance.sample(range(65_000), many)
    return [Members([MemberRow(f"127.77.{n // 250}.{n % 250}:9090", True, liar.unix) for n in tops])]


def _move(liar: Liar) -> list[RingMessage]:
    """A move by hand that no director leads, or a pin."""
    host = host_id(Address(f"127.0.1.{liar.chance.randrange(1, 4)}"))
    flags = liar.chance.choice([BY_HAND | MOVING, BY_HAND, BY_HAND | PINNED])
    record = User(liar.key(), host, Stamp(liar.unix + liar.chance.choice([-60, 0, 3])), liar.unix, flags)
    return [Users(pack([record]))]


def _choice(liar: Liar) -> list[RingMessage]:
    """Another plain assignment, perhaps to a host that does not exist."""
    host = host_id(Address(f"127.0.1.{liar.chance.randrange(1, 9)}"))
    record = User(liar.key(), host, Stamp(liar.unix), liar.unix + liar.chance.choice([-600, 0, 2]), 0)
    return [Users(pack([record]))]


def _time_ahead(liar: Liar) -> int:
    """Return a time near the limit, some time ahead, or the last possible time."""
    bound = liar.unix + AHEAD + 12
    return liar.chance.choice([bound + liar.chance.randrange(-3, 6), liar.unix + 86_400, LATEST])


def _user_ahead(liar: Liar) -> list[RingMessage]:
    """A user with times far ahead."""
    host = host_id(Address(f"127.0.1.{liar.chance.randrange(1, 4)}"))
    decided, seen = liar.chance.choice([(_time_ahead(liar), liar.unix), (liar.unix, _time_ahead(liar))])
    flags = liar.chance.choice([0, 0, BY_HAND, BY_HAND | MOVING])
    return [Users(pack([User(liar.key(), host, Stamp(decided), seen, flags)]))]


def _host_ahead(liar: Liar) -> list[RingMessage]:
    """A host's present row with stamps far ahead. It is no change, so it moves no user.

    A presence or a tag with a time within the limit would count as an operator's change, and users assigned
    before would have to move.
    """
    present = [row for row in liar.node.core.hosts.rows.values() if row.present]
    if not present:
        return []
    row = liar.chance.choice(present)
    stamps = {stamp: _time_ahead(liar) for stamp in ("weight_at", "up_at")}
    stamps |= {stamp: liar.chance.choice([liar.unix + 86_400, LATEST]) for stamp in ("present_at", "tag_at")}
    names = liar.chance.sample(sorted(stamps), liar.chance.randrange(1, 5))
    return [Hosts([replace(row, **{name: stamps[name] for name in names})])]


def _member_ahead(liar: Liar) -> list[RingMessage]:
    """The fact that a director belongs to the ring."""
    return [Members([MemberRow(liar.member(), True, _time_ahead(liar))])]


def _move_round(liar: Liar) -> list[RingMessage]:
    """A round of another director that never began it, or a round that has not passed all."""
    key = liar.key()
    record = liar.node.users.get(key)
    decided = record.decided if record is not None else liar.unix
    late = [str(liar.member())] if liar.chance.random() < 0.3 else []
    serial = liar.chance.randrange(1 << 56)
    return [MoveRound(liar.member(), serial, SUBJECT.pack(key, decided), liar.members(), late, 3, True)]


def _near_round(liar: Liar) -> list[RingMessage]:
    seen = liar.unix + liar.chance.choice([-3600, 0, 3600])
    return [NearRound(liar.member(), liar.chance.randrange(1 << 56), liar.key(), seen, liar.members())]


def _kick_round(liar: Liar) -> list[RingMessage]:
    name, _ = liar.chance.choice(liar._users)
    what: KickWhat = liar.chance.choice([ByName(name.encode()), Fence()])
    lap, serial = liar.chance.choice([1, 2]), liar.chance.randrange(1 << 56)
    return [KickRound(liar.member(), serial, lap, what, liar.members(), [], 7)]


def _wrong_token(liar: Liar) -> list[RingMessage]:
    """A token with the digest of a table that no director has."""
    serial = liar.chance.randrange(1 << 56)
    digest = liar.chance.randbytes(8)
    return [Token(liar.member(), serial, liar.chance.choice([1, 2]), digest, liar.members())]


def _token(liar: Liar) -> list[RingMessage]:
    """A second lap with the table that all have, but with other members than those that have seen it."""
    digests = {node.core._agreement.digest for node in liar.world.ups()}
    if len(digests) > 1 or not all(node.core.synced for node in liar.world.ups()):
        return []
    serial = liar.chance.randrange(1 << 56)
    return [Token(liar.member(), serial, liar.chance.choice([1, 2]), digests.pop(), liar.members())]


def _laps(liar: Liar) -> list[RingMessage]:
    """A token that the liar begins itself, immediately followed by its second lap, as if all directors had
    the table of one of them, although during a host change not all have. It names the members that the
    receiver expects, even made-up ones."""
    node = liar.world.nodes[liar.member()]
    if not node.up:
        return []
    serial = liar.chance.randrange(1 << 56)
    first = Token(liar.node.member, serial, 1, node.core._agreement.digest, [liar.node.member])
    behind = [member for member in node.core.ring.rightwards if member != liar.node.member]
    second = replace(first, lap=2, passed=[liar.node.member, node.member, *behind])
    return [first, second]


def _overheard(liar: Liar) -> Token | None:
    return liar.chance.choice(liar.node.overheard) if liar.node.overheard else None


def _second_lap(liar: Liar) -> list[RingMessage]:
    """The second lap of a token whose first lap is in progress, with all members or some."""
    token = _overheard(liar)
    if token is None:
        return []
    others = [member for member in liar.world.members if member not in token.passed]
    passed = liar.chance.choice([[*token.passed, *others], list(token.passed), liar.members()])
    return [replace(token, lap=2, passed=passed)]


def _later_token(liar: Liar) -> list[RingMessage]:
    """A received token with a higher number, which its origin may not have sent yet."""
    token = _overheard(liar)
    if token is None:
        return []
    serial = token.serial + liar.chance.choice([1, 2, 10**6])
    return [replace(token, serial=serial, lap=liar.chance.choice([1, 2]))]


def _token_again(liar: Liar) -> list[RingMessage]:
    """A received token again, perhaps with a made-up member in it, or without one of its members."""
    token = _overheard(liar)
    if token is None:
        return []
    passed = list(token.passed)
    change = liar.chance.choice(["none", "made up", "left out"])
    if change == "made up":
        passed.insert(liar.chance.randrange(len(passed) + 1), MADE_UP)
    elif change == "left out" and len(passed) > 1:
        passed.remove(liar.chance.choice(passed))
    return [replace(token, passed=passed)]


def _users_limit(liar: Liar) -> list[RingMessage]:
    """Laps that state a high `users.max` of the ring.

    A low one would drop users, as an operator's change does.
    """
    return [replace(token, limit=10**9) for token in _laps(liar) if isinstance(token, Token)]


def _swallow(liar: Liar) -> list[RingMessage]:
    """Have the liar pass on no token for a while."""
    liar.node.swallows_until = liar.world.now + liar.chance.choice([0.5, 2.0, 8.0])
    return []


def _digests(liar: Liar) -> list[RingMessage]:
    return [Digests(liar.chance.choice([0, 64]), liar.chance.randbytes(8 * 64))]


def _summaries(liar: Liar) -> list[RingMessage]:
    numbers = liar.chance.sample(range(4096), 8)
    return [Summaries(numbers, [liar.chance.randbytes(12) for _ in numbers], liar.chance.random() < 0.5)]


LIES: dict[str, Callable[[Liar], list[RingMessage]]] = {
    "departure": _departure,
    "departures": _departures,
    "presence": _presence,
    "made-up members": _made_up_members,
    "move": _move,
    "choice": _choice,
    "user ahead": _user_ahead,
    "host ahead": _host_ahead,
    "member ahead": _member_ahead,
    "move round": _move_round,
    "near round": _near_round,
    "kick round": _kick_round,
    "wrong token": _wrong_token,
    "token": _token,
    "laps": _laps,
    "second lap": _second_lap,
    "later token": _later_token,
    "token again": _token_again,
    "users' limit": _users_limit,
    "swallow": _swallow,
    "digests": _digests,
    "summaries": _summaries,
    "redirect": lambda liar: [Redirect(liar.member())],
    "linked": lambda liar: [Linked()],
    "exchange done": lambda liar: [ExchangeDone(True)],
    "pong": lambda liar: [Pong(liar.chance.randrange(99), float(liar.unix + 3600))],
    "bye": lambda liar: [Bye("no reason", liar.chance.random() < 0.5)],
}
"""The lies by name. All are equally frequent."""
