"""Times of kicks: time-outs of the kick channel, age of listings, and when sessions are listed again."""

from __future__ import annotations

TIMEOUT = 4.0
"""Seconds after which a kick or a listing has failed."""
STARTS_WITHIN = 1.0
"""Seconds from the first socket of a starting Dovecot until all its sockets exist."""
LISTING_KEPT = 0.25
"""Seconds for which one listing counts the sessions of all kicks, at most."""
KEPT_AS_LONG = 10
"""A listing is used for this many times its own duration, because sessions that began later are missing from
it. A fast listing is soon repeated, and a series of kicks spends a tenth of its time on listings."""
LISTING_WAIT = 0.25
"""Seconds that a kick waits for the listing that counts its sessions."""
LATE_FIRST, LATE_EVERY, LATE_UNTIL = 1.5, 5.0, 35.0
"""Seconds after a kick when sessions are listed again: the first time, the interval, the last time. anvil
does not know a session that its backend has not accepted yet; neither does ipc, if the login process has
proxied no session before. The first listing is within the kick delay, the last after Dovecot's 30 s time-out
for backends."""
LATE_SHARE = 9
"""After such a listing follows a pause of this many times its duration."""
PATIENCE = 0.75
"""Seconds for which sessions may remain that anvil says it ended."""
PATIENCE_WITH_PROCESSES = 0.25
"""Seconds for which sessions may remain after they were ended at their own login processes."""
FIRST_PAUSE = 0.05
"""Seconds between the first two listings that check whether sessions have ended; each pause is twice as long
as the pause before."""
LOOK_SHARE = 9
"""Each listing follows a pause of this many times the duration of the listing before. So listings take a
tenth of the time, whatever the number of sessions."""
LOOK_WAIT = 0.5
"""Seconds of that pause, at most."""
