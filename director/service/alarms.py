"""What operators should put right though logins are answered, for `status` and metrics."""

from __future__ import annotations

from director.core.differences import VERSION, differences
from director.core.director import Director
from director.records import Alarm
from director.types import MemberId


def differing(director: Director) -> dict[str, dict[MemberId, str]]:
    """The directors that differ from this one, by what differs; see `core.differences`."""
    ring = director.ring
    return differences(ring.identity, ring.links.values(), ring.refused)


def ring_alarms(director: Director) -> list[Alarm]:
    """One for each director and thing that differs."""
    found = []
    me = director.ring.identity
    for what, members in differing(director).items():
        for member, theirs in sorted(members.items()):
            if what == VERSION:
                text = f"{member} runs {theirs}, this director {me.release}: finish the upgrade"
            else:
                of_it = f" ({theirs})" if theirs else ""
                text = f"{what} differs at {member}{of_it}: write the same everywhere, then director reload"
                text += "" if not theirs else " --exec"
            found.append(Alarm(kind=what, about=member, text=text))
    return found
