"""Alarms for `status` and metrics: conditions that an operator should repair although logins are answered."""

from __future__ import annotations

from director.core.director import Director
from director.core.ring.differences import BACKENDS, EXPIRE, VERSION, differences
from director.core.ring.link import Identity, hash_setting
from director.records import Alarm, ReloadInfo
from director.types import MemberId


def differing(director: Director) -> dict[str, dict[MemberId, str]]:
    """Return the directors that differ from this director, by what differs; see `core.ring.differences`."""
    ring = director.ring
    return differences(ring.identity, ring.links.values(), ring.refused)


def reload_alarms(last: ReloadInfo) -> list[Alarm]:
    """Return an alarm if the last reload failed: the director then runs with its previous configuration."""
    if last.state != "failed":
        return []
    command = "director reload --exec" if last.exec else "director reload"
    why = "; ".join(last.problem.splitlines())
    text = f"the last {command} failed and changed nothing: {why}; correct this, then run {command}"
    return [Alarm(kind="reload", about=command, text=text)]


def ring_alarms(director: Director) -> list[Alarm]:
    """Return one alarm for each difference between this director and each other director."""
    me = director.ring.identity
    return [
        Alarm(kind=what, about=member, text=_difference_text(what, member, theirs, me))
        for what, members in differing(director).items()
        for member, theirs in sorted(members.items())
    ]


def _difference_text(what: str, member: MemberId, theirs: str, me: Identity) -> str:
    """Return what differs, and what the operator has to do.

    Args:
        what: what differs, a constant of `core.ring.differences` or the name of a hash setting.
        theirs: the value at `member`; not shown for backends.
    """
    if what == VERSION:
        return f"{member} runs release {theirs}, this director {me.release}; finish the upgrade"
    if what == BACKENDS:
        return (
            f"{member} has other backends in its configuration file than this director; write the same "
            "backends into both files, then run director reload"
        )
    mine = f"{me.expire} s"
    if what != EXPIRE:
        what, theirs, mine = hash_setting(theirs, me.username_hash)
    return (
        f"{what} is {theirs} at {member}, but {mine} here; write the same value into both files, then run "
        "director reload --exec"
    )
