"""What a changed configuration file does to the hosts: the three-way merge of the file as it was last
applied, the file as it is, and the host table (docs/ring.md, rule 4).

    file has not changed it                                       -> stays as it is
    file has changed it, the table says so already                -> nothing to do: another member made it
    file has changed it, nobody has touched it since              -> made
    file has changed it, somebody has changed it at run time since -> kept

"Touched since" is judged by stamps alone: with the settings last applied goes the stamp that each attribute
had in the table when the table said the same. So no clocks are compared, and a change that another member
made and an operator has overruled is not made a second time.
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
"""The row of a host that nobody has heard of."""

APART = -1
"""In place of a stamp: the table does not say what the file says, because of somebody at run time."""


class AppliedHost(msgspec.Struct, frozen=True, array_like=True):
    """What one member's file said of one host when it was last applied.

    Each stamp is that of the table when the file, as it is here, first agreed with it; APART: it does not."""

    address: str
    listed: bool
    """False: the file lists it no more; kept for the stamp of its removal."""
    present_at: int
    tag: str = ""
    tag_at: int = 0
    weight: int = 0
    weight_at: int = 0
    hostname: str = ""
    """The name that the address came from, if it came from one."""


class Outcome(Enum):
    MADE = "made"
    """It is changed as the file says, for the whole ring."""
    KEPT = "kept"
    """The file has changed it, but so has somebody at run time since it was last applied: that stays."""
    STAYS = "stays"
    """The file says what it said when it was last applied: what was changed at run time stays."""


class Difference(msgspec.Struct, frozen=True):
    """One thing in which the file and the host table differ, and what becomes of it."""

    address: Address
    attribute: Attribute
    outcome: Outcome
    row: HostRow | None
    """The host in the table; None: it has never been there."""
    setting: BackendSetting | None
    """The host in the file; None: it is not listed."""

    @property
    def decided(self) -> int:
        """The stamp of what holds in the table; 0: it came from a file."""
        row = self.row or NEVER
        return {"host": row.present_at, "weight": row.weight_at, "tag": row.tag_at}[self.attribute]

    def values(self) -> tuple[str, str]:
        """The attribute as the table has it, and as the file has it, for people."""
        row, setting = self.row or NEVER, self.setting
        if self.attribute == "weight":
            return str(row.weight), str(setting.weight if setting else "")
        if self.attribute == "tag":
            return row.tag, setting.tag if setting else ""
        return ("there" if row.present else ""), (_in_words(setting) if setting else "")

    def gone_from(self, row: HostRow | None) -> bool:
        """Whether a host with this row no longer differs so."""
        current, setting = row or NEVER, self.setting
        if setting is None or self.attribute == "host":
            return current.present is (setting is not None)
        if self.attribute == "weight":
            return current.weight == setting.weight
        return current.tag == setting.tag

    def change(self) -> HostChange:
        """What makes it so. It is not carried out where the row has changed meanwhile."""
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
    """Everything in which the file (`settings`) and the host table (`rows`) differ, by address.

    applied: what this member last applied; None: not known. Then the file decides over whatever carries the
    stamp 0, as at the start of a director that has no memory of an earlier one.
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
    """In which attributes one host differs, and what becomes of each."""
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
    """changed: by the file. stamp: of the table now; agreed: when it last was as the file said."""
    if not changed:
        return Outcome.STAYS
    return Outcome.MADE if stamp == agreed else Outcome.KEPT


def _by_stamp(stamp: int) -> Outcome:
    return Outcome.STAYS if stamp else Outcome.MADE


def now_applied(
    applied: Iterable[AppliedHost], settings: Iterable[BackendSetting], rows: Mapping[Address, HostRow]
) -> list[AppliedHost]:
    """What is to be remembered once the file has been applied, by address."""
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
    """The stamp to remember of one attribute. same: the file says what it said before."""
    clipped = agrees and stamp < before  # the clock was set back since (docs/ring.md, rules 45 and 46)
    if same and before != APART and not clipped:
        return before  # also where it is the same again: what came in between was not this file's doing
    return stamp if agrees else APART


Applied = dict[str, list[AppliedHost]]
"""By member, what each last applied."""


def encode_applied(applied: Mapping[str, list[AppliedHost]]) -> bytes:
    """The document of the state store: msgpack, members in order and rows with checksums, so that equal
    contents are equal bytes."""
    return msgspec.msgpack.encode(
        {
            member: [with_checksum(row, member.encode()) for row in applied[member]]
            for member in sorted(applied)
        }
    )


def read_applied(data: bytes) -> tuple[Applied, str]:
    """The members of whom all rows can be right, and what is wrong with the document; empty: nothing.

    Never raises."""
    return finished(applied_in_steps(data))


def applied_in_steps(data: bytes) -> Steps[tuple[Applied, str]]:
    """The same, some rows in each step."""
    pairs = split_map(data)
    applied: Applied = {}
    problem = "" if pairs is not None else "it is cut off or overwritten"
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
    """Raises ValueError where anything of `data` is no such document."""
    applied, problem = read_applied(data)
    if problem:
        raise ValueError(problem)
    return applied
