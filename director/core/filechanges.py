"""The effect of a changed configuration file on the hosts: a three-way merge of the file as it was last
applied, the file as it is now, and the host table (docs/ring.md, rule 4).

    the file has not changed it                                            -> stays as it is
    the file has changed it, the table has the same                        -> stays: another director made it
    the file has changed it, nothing has changed it at run time since      -> made
    the file has changed it, an operator has changed it at run time since  -> kept

Only stamps decide whether something has changed it since. The settings last applied are kept with the stamps
that the attributes had in the table when the table agreed with the file. So no clocks are compared, and a
change that another director made and an operator overruled is not made a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Literal

import msgspec

from director.core.placement.addresses import address_order
from director.core.protocol.events import HostChange
from director.core.protocol.messages import HostRow
from director.core.protocol.steps import Steps, finished
from director.core.tables.documentrows import scan_map, sound_in_steps, split_map, with_checksum
from director.core.tables.hosts import BackendSetting
from director.types import Address

Attribute = Literal["host", "weight", "tag"]
NEVER = HostRow(
    address="",
    hostname="",
    present=False,
    present_at=0,
    tag="",
    tag_at=0,
    weight=0,
    weight_at=0,
    up=True,
    up_at=0,
)
"""The row of a host that was never in the table."""

APART = -1
"""Stands for a stamp when the table does not agree with the file because of a change at run time."""


class AppliedHost(msgspec.Struct, frozen=True, array_like=True):
    """The settings of one host in one director's file when the file was last applied.

    Each stamp is that of the table when it first agreed with the file; APART: it does not agree.
    """

    address: str
    listed: bool
    """False: the file no longer lists the host. The entry is kept for the stamp of the removal."""
    present_at: int
    tag: str = ""
    tag_at: int = 0
    weight: int = 0
    weight_at: int = 0
    hostname: str = ""
    """The name whose address this is; empty: the file has the address itself."""


class Outcome(Enum):
    MADE = "made"
    """The host is changed as the file says, on all directors."""
    KEPT = "kept"
    """The file has changed it, but an operator has changed it at run time since it was last applied: the
    change at run time stays."""
    STAYS = "stays"
    """The file says the same as when it was last applied: a change at run time stays."""


class Difference(msgspec.Struct, frozen=True):
    """One difference between the file and the host table, and its outcome."""

    address: Address
    attribute: Attribute
    outcome: Outcome
    row: HostRow | None
    """The host in the table; None: it was never there."""
    setting: BackendSetting | None
    """The host in the file; None: it is not listed."""

    @property
    def decided(self) -> int:
        """The stamp of the value in the table; 0: the value came from a file."""
        row = self.row or NEVER
        return {"host": row.present_at, "weight": row.weight_at, "tag": row.tag_at}[self.attribute]

    def values(self) -> tuple[str, str]:
        """Return the attribute as people read it: in the table, and in the file."""
        row, setting = self.row or NEVER, self.setting
        if self.attribute == "weight":
            return str(row.weight), str(setting.weight if setting else "")
        if self.attribute == "tag":
            return row.tag, setting.tag if setting else ""
        return ("present" if row.present else ""), (_in_words(setting) if setting else "")

    def is_resolved_by(self, row: HostRow | None) -> bool:
        """Whether a host with this row no longer has the difference."""
        current, setting = row or NEVER, self.setting
        if setting is None or self.attribute == "host":
            return current.present is (setting is not None)
        if self.attribute == "weight":
            return current.weight == setting.weight
        return current.tag == setting.tag

    def change(self) -> HostChange:
        """Return the change that removes the difference.

        It is not carried out if the row has changed meanwhile.
        """
        if self.setting is None:
            return HostChange(0, self.address, remove=True, only_if=self.row)
        if self.attribute == "weight":
            return HostChange(0, self.address, weight=self.setting.weight, only_if=self.row)
        if self.attribute == "tag":
            return HostChange(0, self.address, tag=self.setting.tag, retag=True, only_if=self.row)
        return HostChange(
            0,
            self.address,
            add=True,
            hostname=self.setting.hostname,
            tag=self.setting.tag,
            weight=self.setting.weight,
            only_if=self.row,
        )


def _in_words(setting: BackendSetting) -> str:
    return f"weight {setting.weight}" + (f", tag {setting.tag}" if setting.tag else "")


def compare(
    applied: Iterable[AppliedHost] | None, settings: Iterable[BackendSetting], rows: Mapping[Address, HostRow]
) -> list[Difference]:
    """Return all differences between the file and the host table, by address.

    Args:
        applied: what this director last applied; None: unknown. Then the file decides about everything that
            has stamp 0, as at the first start of a director.
        settings: the hosts of the file.
        rows: the host table.
    """
    known = None if applied is None else {Address(host.address): host for host in applied}
    listed = {setting.address: setting for setting in settings}
    found: list[Difference] = []
    for address in sorted(listed.keys() | rows.keys(), key=address_order):
        setting, row = listed.get(address), rows.get(address)
        last = None if known is None else known.get(address, AppliedHost(address, False, 0))
        outcomes = _differing(last, setting, row or NEVER)
        found += [Difference(address, what, outcome, row, setting) for what, outcome in outcomes]
    return found


def _differing(
    last: AppliedHost | None, setting: BackendSetting | None, row: HostRow
) -> list[tuple[Attribute, Outcome]]:
    """Return the attributes in which one host differs, each with the outcome."""
    if row.present is not (setting is not None):
        if last is None:
            return [("host", _by_stamp(row.present_at))]
        return [("host", _outcome(last.listed is not (setting is not None), row.present_at, last.present_at))]
    found: list[tuple[Attribute, Outcome]] = []
    if setting is None:
        return found
    if row.tag != setting.tag:
        if last is None:
            found.append(("tag", _by_stamp(row.tag_at)))
        else:
            changed = not last.listed or last.tag != setting.tag
            found.append(("tag", _outcome(changed, row.tag_at, last.tag_at)))
    if row.weight != setting.weight:
        if last is None:
            found.append(("weight", _by_stamp(row.weight_at)))
        else:
            changed = not last.listed or last.weight != setting.weight
            found.append(("weight", _outcome(changed, row.weight_at, last.weight_at)))
    return found


def _outcome(changed: bool, stamp: int, agreed: int) -> Outcome:
    """Return the outcome for one attribute.

    Args:
        changed: whether the file has changed it.
        stamp: its stamp in the table.
        agreed: its stamp when the table last agreed with the file.
    """
    if not changed:
        return Outcome.STAYS
    return Outcome.MADE if stamp == agreed else Outcome.KEPT


def _by_stamp(stamp: int) -> Outcome:
    return Outcome.STAYS if stamp else Outcome.MADE


def now_applied(
    applied: Iterable[AppliedHost], settings: Iterable[BackendSetting], rows: Mapping[Address, HostRow]
) -> list[AppliedHost]:
    """Return what to remember once the file has been applied, by address."""
    before = {Address(host.address): host for host in applied}
    listed = {setting.address: setting for setting in settings}
    found = []
    for address in sorted(listed.keys() | before.keys(), key=address_order):
        setting, row = listed.get(address), rows.get(address, NEVER)
        last = before.get(address, AppliedHost(address, False, 0))
        agrees = row.present is (setting is not None)
        present_at = _agreed(last.listed is (setting is not None), last.present_at, agrees, row.present_at)
        if setting is None:
            found.append(AppliedHost(address, False, present_at))
            continue
        same_tag = last.listed and last.tag == setting.tag
        tag_at = _agreed(same_tag, last.tag_at, row.tag == setting.tag, row.tag_at)
        same_weight = last.listed and last.weight == setting.weight
        weight_at = _agreed(same_weight, last.weight_at, row.weight == setting.weight, row.weight_at)
        found.append(
            AppliedHost(
                address=address,
                listed=True,
                present_at=present_at,
                tag=setting.tag,
                tag_at=tag_at,
                weight=setting.weight,
                weight_at=weight_at,
                hostname=setting.hostname,
            )
        )
    return found


def _agreed(same: bool, before: int, agrees: bool, stamp: int) -> int:
    """Return the stamp to remember for one attribute.

    Args:
        same: whether the file says the same as before.
        before: the stamp remembered so far.
        agrees: whether the table agrees with the file.
        stamp: the stamp in the table.
    """
    clipped = agrees and stamp < before  # the clock was set back since (docs/ring.md, rules 45 and 46)
    if same and before != APART and not clipped:
        # even if the table has come to agree again: this file did not make the changes in between
        return before
    return stamp if agrees else APART


Applied = dict[str, list[AppliedHost]]
"""The settings that each director last applied, by director."""


def encode_applied(applied: Mapping[str, list[AppliedHost]]) -> bytes:
    """Return the document of applied configurations.

    It is msgpack: directors in order, rows with checksums, so that equal contents are equal bytes.
    """
    return msgspec.msgpack.encode(
        {
            member: [with_checksum(row, member.encode()) for row in applied[member]]
            for member in sorted(applied)
        }
    )


def read_applied(data: bytes) -> tuple[Applied, str]:
    """Return the directors whose rows are all readable, and the text of an error; empty: none.

    Never raises.
    """
    return finished(applied_in_steps(data))


def applied_in_steps(data: bytes) -> Steps[tuple[Applied, str]]:
    """Return what `read_applied` returns, some rows in each step."""
    pairs = split_map(data)
    applied: Applied = {}
    problem = "" if pairs is not None else "it is truncated or overwritten"
    for member, parts in scan_map(data) if pairs is None else pairs:
        rows = yield from sound_in_steps(parts, AppliedHost, member.encode(), only_checked=pairs is None)
        yield
        if rows.problems:
            problem = problem or f"the hosts of {member}: {rows.problems[0]}"
        else:
            applied[member] = rows.rows
    if problem:
        problem = f"document of applied configurations, {len(data)} bytes: {problem}"
    return applied, problem


def decode_applied(data: bytes) -> Applied:
    """Return the contents of a document. Raises ValueError if any part of `data` cannot be read."""
    applied, problem = read_applied(data)
    if problem:
        raise ValueError(problem)
    return applied
