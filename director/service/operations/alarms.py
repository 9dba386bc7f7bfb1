"""What operators should put right though logins are answered, for `status` and metrics."""

from __future__ import annotations

from director.core.director import Director
from director.core.ring.differences import BACKENDS, EXPIRE, VERSION, differences
from director.core.ring.link import Identity, hash_setting
from director.records import Alarm, ReloadInfo
from director.types import MemberId


def differing(director: Director) -> dict[str, dict[MemberId, str]]:
    """The directors that differ from this one, by what differs; see `core.ring.differing`."""
    ring = director.ring
    return differences(ring.identity, ring.links.values(), ring.refused)


def reload_alarms(last: ReloadInfo) -> list[Alarm]:
    """That the last reload failed: what is in the file counts nowhere."""
    if last.state != "failed":
        return []
    command = "director reload --exec" if last.exec else "director reload"
    why = "; ".join(last.problem.splitlines())
    text = f"the last {command} failed, and changed nothing: {why}; put it right, then {command}"
    return [Alarm(kind="reload", about=command, text=text)]


def ring_alarms(director: Director) -> list[Alarm]:
    """One for each director and thing that differs."""
    me = director.ring.identity
    return [
        Alarm(kind=what, about=member, text=_difference_text(what, member, theirs, me))
        for what, members in differing(director).items()
        for member, theirs in sorted(members.items())
    ]


def _difference_text(what: str, member: MemberId, theirs: str, me: Identity) -> str:
    """What differs, and what to do. theirs: the value there; of backends it is not told."""
    if what == VERSION:
        return f"{member} runs {theirs}, this director {me.release}: finish the upgrade"
    if what == BACKENDS:
        return (
            f"{member} has other backends in its configuration file than this director: write the same in "
            "both files, then director reload"
        )
    mine = f"{me.expire} s"
    if what != EXPIRE:
        what, theirs, mine = hash_setting(theirs, me.username_hash)
    return (
        f"{what} is {theirs} at {member}, but {mine} here: write the same in both files, then "
        "director reload --exec"
    )
