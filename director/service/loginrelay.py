"""Logins on their way through: lines from auth get their host, at once or when the core has decided.

Whatever reads puts users into the table; the records leave at the end of the loop's turn in one frame a
neighbour, and only then the answers of that turn are written (docs/ring.md, rule 5).
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
"""Without neighbours: seconds in which new users gather before they are looked after."""

_ANSWER = b"\tuser_dirkey="
"""In each line that has got a host."""


class LoginRelay:
    """The owner of the clients of login, userdb and authreply sockets."""

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
        """Answers that are written at the end of this turn of the loop."""
        self._alone_planned = False
        self._auth_trouble: set[str] = set()

    # ---- the hot path

    def lines(self, client: Client, data: bytes) -> None:
        """Complete lines from auth: answer what can be answered now."""
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
        """Write the answers of this turn of the loop, whose records have left."""
        late, self._late = self._late, []
        for client, out in late:
            client.write(out)

    def _end_alone(self) -> None:
        """Without neighbours nobody waits to hear of new users: now and then is enough for the store."""
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
            self._mailbox.handle(Lookup(request, line.key, line.tag))

    def held_lines(self) -> dict[Client, list[bytes]]:
        """Lines from auth that wait for an answer, of each client."""
        return self._held.lines()

    def answered(self, request: RequestId, key: UserKey, backend: Backend) -> None:
        """The core has decided where a login goes."""
        taken = self._held.take(request)
        if taken is not None:
            client, held_request = taken
            self._counts.add("answered_later", client.relay.name)
            line = finish(self._assigner, held_request.line, backend, key)
            client.write(line)
            if may_say_perhaps(line):
                _cancel(client, line)

    def refused(self, request: RequestId, reason: str) -> None:
        """The core does not answer a login."""
        taken = self._held.take(request)
        if taken is not None:
            self._refuse(*taken, reason)

    def _refuse(self, client: Client, held_request: HeldRequest, reason: str) -> None:
        """The client is to try again later."""
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
        """Users who are still logged in, as login processes write them."""
        self._mailbox.handle(Seen([unescape(line) for line in lines]))
        if self._users.has_changes:
            self._mailbox.end_turn_soon()

    def notify_skipped(self, length: int) -> None:
        now, note = time.monotonic(), "skipped; reading goes on"
        self._limited.warning(now, "notify_line_too_long", bytes=length, note=note)

    # ---- troubles

    def auth_unreachable(self, path: str, reason: str) -> None:
        if path not in self._auth_trouble:
            self._auth_trouble.add(path)
            self._log.error(
                "auth_unreachable",
                socket=path,
                reason=reason,
                note="logins wait; is Dovecot running? retrying",
            )

    def auth_reached(self, path: str) -> None:
        if path in self._auth_trouble:
            self._auth_trouble.discard(path)
            self._log.info("auth_reached", socket=path)

    def line_too_long(self, path: str, limit: int) -> None:
        now = time.monotonic()
        note = "that connection is closed"
        self._limited.warning(now, "auth_line_too_long", path, socket=path, limit=limit, note=note)

    def authreply_refused(self, reason: str) -> None:
        self._limited.warning(time.monotonic(), "authreply_client_refused", reason, reason=reason)


def _cancel(client: Client, lines: bytes) -> None:
    """Tell auth of users whom it takes to be local, and who are proxied."""
    if cancellations := cancels(lines):
        client.tell_auth(cancellations)
