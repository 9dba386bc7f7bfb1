"""Names of backends: which addresses count, and what happens to the hosts when the addresses change.

The name service's answers for a name take three steps, all pure:

    answers over time -> `NameAddresses` -> addresses that count (a flapping answer removes no address)
    file, table, last applied file -> `plan_moves` -> backends that have another address, all moved at once
    the rest -> `filechanges.compare`, as for a changed file

If a name had one address and has another one now, its backend has *moved*: weight, tag, state, pins and users
follow the name. Only a director
whose resolver has returned a new address moves the backend. A director whose resolver returns the same as the
last time leaves the table alone. So directors that see the change at different moments do not undo each
other's moves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from director.core.filechanges import APART, AppliedHost
from director.core.placement.addresses import address_order
from director.core.protocol.events import HostMove
from director.core.protocol.messages import HostRow
from director.core.tables.hosts import BackendSetting
from director.core.tables.movedhosts import has_no_address, placeholder_address
from director.types import Address

DROPPED_AFTER = 30.0
"""Seconds for which an address must be missing from the answers before it no longer counts, if the name has
several."""
RETURNS_AFTER = 30
"""Seconds before a backend may return to an address that it has left: an old answer may come late."""


class NameAddresses:
    """The present addresses of one name. An address that is missing in an answer still counts for a while."""

    def __init__(self, known: Iterable[Address] = ()) -> None:
        """Begin with the addresses that are known.

        Args:
            known: the addresses now; empty: the name was not resolved yet.
        """
        self._seen: dict[Address, float | None] = dict.fromkeys(known)
        """The addresses that count. The value is the monotonic time since when the answers lack the address;
        None: the last answer has it."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(sorted(self._seen, key=address_order))

    def answered(self, found: Collection[Address], now: float) -> None:
        """Take an answer of the name service. An empty answer is ignored.

        Args:
            found: the addresses of the answer.
            now: monotonic seconds.
        """
        if not found:
            return
        if len(self._seen) == 1 and len(found) == 1:
            self._seen = dict.fromkeys(found)
            return
        for address in self._seen:
            if address not in found and self._seen[address] is None:
                self._seen[address] = now
        self._seen.update(dict.fromkeys(found))
        self._seen = {
            address: missing
            for address, missing in self._seen.items()
            if missing is None or now < missing + DROPPED_AFTER
        }


class NamePlan(NamedTuple):
    """The hosts of a file as its names are resolved now, and the moves of hosts to new addresses."""

    moves: list[HostMove]
    """Moves of backends that have another address than in the table."""
    waiting: frozenset[str]
    """Names whose backends must wait before they move."""
    settings: list[BackendSetting]
    """The hosts of the file, once the moves are made."""


def plan_moves(
    applied: Sequence[AppliedHost] | None,
    settings: Sequence[BackendSetting],
    unresolved: Sequence[BackendSetting],
    rows: Mapping[Address, HostRow],
    unix: int,
) -> NamePlan:
    """Plan the moves of backends whose names have another address now.

    Args:
        applied: what this director last applied of its file; None: unknown.
        settings: the hosts of the file, without those of unresolved names.
        unresolved: names of the file that have no address now.
        rows: the host table.
        unix: Unix seconds.
    """
    moves, waiting = _plan(applied, settings, rows, unix)
    unknown = [setting for setting in settings if setting.hostname in waiting]
    resolved = [setting for setting in settings if setting.hostname not in waiting]
    return NamePlan(moves, waiting, known_settings(resolved, [*unresolved, *unknown], applied, rows))


def _plan(
    applied: Sequence[AppliedHost] | None,
    settings: Sequence[BackendSetting],
    rows: Mapping[Address, HostRow],
    unix: int,
) -> tuple[list[HostMove], frozenset[str]]:
    wanted = _single(settings)
    moves: dict[str, HostMove] = {}
    waiting = set()
    for name, after in wanted.items():
        before = _before(name, after, applied, rows)
        if before is None:
            continue
        row = rows.get(after)
        if row is not None and row.moved == name and abs(unix - row.present_at) < RETURNS_AFTER:
            waiting.add(name)
        else:
            moves[name] = HostMove(name, before, after)
    _evict(moves, rows)
    return list(moves.values()), frozenset(waiting)


def _before(
    name: str, after: Address, applied: Iterable[AppliedHost] | None, rows: Mapping[Address, HostRow]
) -> Address | None:
    """Return the address that the backend of this name has left for `after`; None: this director has no news
    of that."""
    place = placeholder_address(name)
    if place in rows and has_no_address(rows[place]):
        return place
    addresses = [address for address, row in rows.items() if row.present and row.hostname == name]
    others = [address for address in addresses if address != after]
    if len(others) != 1:
        return None
    if applied is None:
        return others[0] if after in addresses or not rows[others[0]].present_at else None
    known = {address for address, listed in _listed(applied, rows) if listed == name}
    return others[0] if known and after not in known and len(known) == 1 else None


def _evict(moves: dict[str, HostMove], rows: Mapping[Address, HostRow]) -> None:
    """Add moves for backends whose addresses other backends get, and that have no new address: their rows
    get placeholder addresses until the names have addresses again."""
    for move in list(moves.values()):
        row = rows.get(move.after)
        if row is None or not row.present or row.hostname in ("", move.name) or row.hostname in moves:
            continue
        moves[row.hostname] = HostMove(row.hostname, move.after, placeholder_address(row.hostname))


def known_settings(
    settings: Iterable[BackendSetting],
    unresolved: Iterable[BackendSetting],
    applied: Iterable[AppliedHost] | None,
    rows: Mapping[Address, HostRow],
) -> list[BackendSetting]:
    """Return the hosts of the file.

    Those of unresolved names have the addresses that were last known, because an unresolved name is still in
    the file.

    Args:
        settings: the hosts with addresses.
        unresolved: settings of names without an address now.
        applied: what this director last applied of its file; None: unknown.
        rows: the host table.
    """
    found = {setting.address: setting for setting in settings}
    names = {setting.hostname: setting for setting in unresolved}
    if applied is None:
        last = [(address, row.hostname) for address, row in rows.items() if row.present]
    else:
        last = list(_listed(applied, rows))
    for address, name in last:
        if name in names and address not in found:
            found[address] = msgspec.structs.replace(names[name], address=address)
    return list(found.values())


def carried(
    applied: Iterable[AppliedHost], settings: Iterable[BackendSetting], rows: Mapping[Address, HostRow]
) -> list[AppliedHost]:
    """Return what was last applied, by the present addresses.

    A name that had one address and has another one now is the same host of the file, whatever became of the
    host at run time.
    """
    applied = list(applied)
    before = _single_of(_listed(applied, rows))
    moved = {before[name]: (name, after) for name, after in _single(settings).items() if name in before}
    made: dict[str, AppliedHost] = {}
    for host in applied:
        name, after = moved.get(Address(host.address), ("", Address(host.address)))
        if after == host.address:
            made.setdefault(host.address, host)
            continue
        former, row = rows.get(Address(host.address)), rows.get(after)
        if former is not None and not former.present and former.moved == name:
            made.setdefault(host.address, AppliedHost(host.address, False, former.present_at))
        present_at = host.present_at
        if row is not None and row.present and row.hostname == name and present_at != APART:
            present_at = row.present_at
        made[after] = msgspec.structs.replace(host, address=after, hostname=name, present_at=present_at)
    return list(made.values())


def _single(settings: Iterable[BackendSetting]) -> dict[str, Address]:
    """Return the names that have exactly one address."""
    return _single_of((setting.address, setting.hostname) for setting in settings)


def _single_of(named: Iterable[tuple[Address, str]]) -> dict[str, Address]:
    found: dict[str, list[Address]] = {}
    for address, name in named:
        found.setdefault(name, []).append(address)
    return {name: addresses[0] for name, addresses in found.items() if name and len(addresses) == 1}


def _listed(applied: Iterable[AppliedHost], rows: Mapping[Address, HostRow]) -> Sequence[tuple[Address, str]]:
    """Return address and name of each host that the file listed.

    The table has the names that an older release did not keep.
    """
    found = []
    for host in applied:
        if host.listed:
            row = rows.get(Address(host.address))
            found.append((Address(host.address), host.hostname or (row.hostname if row is not None else "")))
    return found
