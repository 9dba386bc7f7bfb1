"""Logins on their way through the director: lines from auth get their host, at once or later.

Each line that is read may put users into the table. Their records leave at the end of the loop's turn, in one
frame for each neighbour. The answers of that turn are written only then (docs/ring.md, rule 5).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

from director.core.director import Director
from director.core.placement.assign import Backend
from director.core.protocol.events import Dropped, Lookup, Seen
from director.service.heldlogins import Client, HeldLogins
from director.service.log import LimitedLog, Log
from director.service.loopwatch import LoopWatch
from director.service.mailbox import Mailbox
from director.service.metrics import LookupCounts
from director.service.ringsockets import RingSockets
from director.types import RequestId, UserKey
from director.wire import hotpath
from director.wire.auth import HeldRequest, cancel, cancels, finish, may_say_perhaps, refusal, says_perhaps
from director.wire.tabs import unescape

ALONE = 0.02
"""Seconds in which new users are collected before the turn ends, for a director without neighbours."""

_ANSWER = b"\tuser_dirkey="
"""Contained in each line that has got a host."""


class LoginRelay:
    """The owner of the clients of the sockets login, userdb and authreply."""

    def __init__(
        self,
        director: Director,
        mailbox: Mailbox,
        watch: LoopWatch,
        ring: RingSockets,
        counts: LookupCounts,
        log: Log,
    ) -> None:
        self._assigner, self._users, self._counters = director.assigner, director.users, director.counters
        self._mailbox, self._watch, self._counts = mailbox, watch, counts
        self._links = ring.links
        self._log, self._limited = log, LimitedLog(log)
        self._loop = asyncio.get_running_loop()
        self._held = HeldLogins()
        self._late: list[tuple[Client, bytes]] = []
        """Answers to be written at the end of this turn of the loop."""
        self._alone_planned = False
        self._auth_trouble: set[str] = set()

    # ---- the hot path

    def lines(self, client: Client, data: bytes) -> None:
        """Handle complete lines from auth, and answer those that can be answered now."""
        self._watch.be_in_time()
        out, held_requests = hotpath.rewrite(self._assigner, data, client.relay.passlines)
        if self._late or (self._links and self._users.has_changes):
            if out:
                self._late.append((client, out))
            self._mailbox.end_turn_soon()
        else:
            if out:
                client.write(out)
            if not self._alone_planned and self._users.has_changes:
                self._alone_planned = True
                self._loop.call_later(ALONE, self._end_alone)
        if out:
            self._counts.add("answered", client.relay.name, out.count(_ANSWER))
            if may_say_perhaps(out):
                _cancel(client, out)
        if held_requests:
            self._hold(client, held_requests)

    def write_late(self) -> None:
        """Write the answers of this turn of the loop. Its records have left."""
        late, self._late = self._late, []
        for client, out in late:
            client.write(out)

    def _end_alone(self) -> None:
        """End a turn for the store, which needs new users only now and then: there are no neighbours."""
        self._alone_planned = False
        if self._users.has_changes:
            self._mailbox.end_turn_soon()

    # ---- logins that wait

    def _hold(self, client: Client, held_requests: Iterable[HeldRequest]) -> None:
        for line in held_requests:
            if full := self._held.full(client, line):
                self._counters.waiting_refused += 1
                self._refuse(client, line, full)
                continue
            request = self._mailbox.new_request()
            self._held.add(request, client, line)
            self._counts.add("waited", client.relay.name)
            self._mailbox.handle(Lookup(request, line.key, line.tag, line.name))

    def held_lines(self) -> dict[Client, list[bytes]]:
        """Return the waiting lines of each client."""
        return self._held.lines()

    def answered(self, request: RequestId, key: UserKey, backend: Backend) -> None:
        """Write the answer to a waiting login: the core has decided on its host."""
        taken = self._held.take(request)
        if taken is not None:
            client, held_request = taken
            self._counts.add("answered_later", client.relay.name)
            line = finish(self._assigner, held_request.line, backend, key)
            client.write(line)
            if may_say_perhaps(line):
                _cancel(client, line)

    def refused(self, request: RequestId, reason: str) -> None:
        """Refuse a waiting login: the core does not answer it."""
        taken = self._held.take(request)
        if taken is not None:
            self._refuse(*taken, reason)

    def _refuse(self, client: Client, held_request: HeldRequest, reason: str) -> None:
        """Refuse a login temporarily, and log it."""
        self._counts.add("refused", client.relay.name)
        client.write(refusal(held_request.id))
        if says_perhaps(held_request.line):
            client.tell_auth(cancel(held_request.id))
        hash32, tag, now = held_request.key >> 32, held_request.tag, time.monotonic()
        self._limited.warning(
            now, "login_refused", reason, user=held_request.name, hash=hash32, tag=tag, reason=reason
        )

    def client_gone(self, client: Client) -> None:
        if requests := self._held.drop(client):
            self._mailbox.handle(Dropped(requests))

    # ---- proxy-notify

    def names_seen(self, lines: Sequence[bytes]) -> None:
        """Refresh the assignments of users who are logged in. lines: user names, escaped."""
        self._mailbox.handle(Seen([unescape(line) for line in lines]))
        if self._users.has_changes:
            self._mailbox.end_turn_soon()

    def notify_skipped(self, length: int) -> None:
        now, note = time.monotonic(), "the line is skipped; check which program writes to the FIFO"
        self._limited.warning(now, "notify_line_too_long", bytes=length, note=note)

    # ---- problems

    def auth_unreachable(self, path: str, reason: str) -> None:
        if path not in self._auth_trouble:
            self._auth_trouble.add(path)
            self._log.error(
                "auth_unreachable",
                socket=path,
                reason=reason,
                note="logins wait; retrying; check that Dovecot runs",
            )

    def auth_reached(self, path: str) -> None:
        if path in self._auth_trouble:
            self._auth_trouble.discard(path)
            self._log.info("auth_reachable", socket=path)

    def line_too_long(self, path: str, limit: int) -> None:
        now = time.monotonic()
        note = "its connection is closed; check which program listens at this socket"
        self._limited.warning(now, "auth_line_too_long", path, socket=path, limit=limit, note=note)

    def authreply_refused(self, reason: str) -> None:
        note = "its connection is closed; check which program writes to listen.authreply"
        self._limited.warning(time.monotonic(), "authreply_client_refused", reason, reason=reason, note=note)


def _cancel(client: Client, lines: bytes) -> None:
    """Tell auth which of the users that it expects to be local are proxied."""
    if cancellations := cancels(lines):
        client.tell_auth(cancellations)
