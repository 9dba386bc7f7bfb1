"""Times of kicks: how long the kick channel may take, how long a listing counts, when it is looked again."""

from __future__ import annotations

TIMEOUT = 4.0
"""Seconds after which a kick or a listing that is not done has failed."""
STARTS_WITHIN = 1.0
"""Seconds in which a Dovecot that starts has made its sockets, all of them, since the first."""
LISTING_KEPT = 0.25
"""Seconds for which one listing counts the sessions of all kicks, at most."""
KEPT_AS_LONG = 10
"""So many times as long as it took a listing is kept: it does not know the sessions begun since. One that is
had in no time is soon had anew, and many kicks one by one still spend a tenth of the time on listings."""
LISTING_WAIT = 0.25
"""Seconds after which a kick does not wait any more for the listing that counts it."""
LATE_FIRST, LATE_EVERY, LATE_UNTIL = 1.5, 5.0, 35.0
"""Seconds after a kick at which sessions are listed again: those whose backend has not let them in yet are
unknown to anvil, and to ipc if their login process has proxied nobody before. First within the kick delay,
and as long as Dovecot waits for a backend (30 s)."""
LATE_SHARE = 9
"""So many times as long as such a listing took nothing is listed after it."""
PATIENCE = 0.75
"""Seconds after which sessions that anvil says it ended, and that are still there, stay."""
PATIENCE_WITH_PROCESSES = 0.25
"""The same once those were ended at their own processes."""
FIRST_PAUSE = 0.05
"""Seconds between the first two looks whether sessions are gone; each pause is twice as long as the one
before."""
LOOK_SHARE = 9
"""So many times as long as a look took is waited before the next one begins: looking takes a tenth of the
time, however many sessions there are."""
LOOK_WAIT = 0.5
"""Seconds of that wait, at most."""
