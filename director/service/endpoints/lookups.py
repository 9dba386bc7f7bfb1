"""Look-ups for programs that are not login processes: nginx, Postfix, a Lua passdb of Dovecot.

They get the answer that a login would get: users are assigned, assignments are refreshed, and users who are
being moved wait. After `timeout` seconds a look-up fails temporarily.
"""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel

from director.core.director import Director
from director.core.placement.assign import Assigner, Backend, Wait
from director.core.protocol.events import Dropped, Lookup
from director.errors import TryAgain
from director.records import LookupAnswer
from director.service.log import LimitedLog, Log
from director.service.loopwatch import LoopWatch
from director.service.mailbox import Mailbox
from director.service.metrics import LookupCounts
from director.types import RequestId, UserKey

WAITING_LIMIT = 128
"""Waiting look-ups, at most: half of the connections to the API. Further look-ups are refused at once."""


class Lookups:
    def __init__(
        self,
        director: Director,
        mailbox: Mailbox,
        watch: LoopWatch,
        counts: LookupCounts,
        log: Log,
        timeout: float,
    ) -> None:
        """timeout: seconds that a look-up may wait."""
        self._assigner, self._users = director.assigner, director.users
        self._mailbox, self._watch, self._counts = mailbox, watch, counts
        self._timeout, self._limited = timeout, LimitedLog(log)
        self._waiting: dict[RequestId, _WaitingLookup] = {}

    async def find(self, user: bytes, tag: bytes, protocol: str) -> LookupAnswer:
        """Return the backend of a user in the pool of `tag`.

        Args:
            protocol: the name of the asking program, for metrics and log.

        Raises TryAgain.
        """
        assigner = self._assigner
        name = assigner.user_hash.without_master_user(user)
        key = assigner.user_hash.key(name, tag)
        self._watch.be_in_time()
        answer = assigner.assign_named(key, tag, name)
        if self._users.has_changes:
            self._mailbox.end_turn_soon()
        if isinstance(answer, Backend):
            self._counts.add("answered", protocol)
            await anyio.lowlevel.checkpoint()  # afterwards the turn has ended, and its records have left
            return _answer(assigner, answer, key)
        self._counts.add("waited", protocol)
        try:
            backend = await self._wait(key, tag, name, answer)
        except TryAgain as exc:
            self._counts.add("refused", protocol)
            now, reason = time.monotonic(), str(exc)
            self._limited.warning(
                now,
                "lookup_refused",
                reason,
                protocol=protocol,
                user=name,
                hash=key >> 32,
                tag=tag,
                reason=reason,
            )
            raise
        self._counts.add("answered_later", protocol)
        return _answer(assigner, backend, key)

    async def _wait(self, key: UserKey, tag: bytes, name: bytes, why: Wait) -> Backend:
        """Wait for the core's answer. Raises TryAgain."""
        if len(self._waiting) >= WAITING_LIMIT:
            raise TryAgain(f"{why.value}; {WAITING_LIMIT} look-ups wait already")
        request, waiting = self._mailbox.new_request(), _WaitingLookup()
        self._waiting[request] = waiting
        try:
            self._mailbox.handle(Lookup(request, key, tag, name))
            with anyio.move_on_after(self._timeout):
                await waiting.over.wait()
        finally:
            if self._waiting.pop(request, None) is not None:
                self._mailbox.handle(Dropped([request]))
        if waiting.backend is None:
            raise TryAgain(waiting.reason or f"{why.value}; not answered within {self._timeout:g} s")
        return waiting.backend

    def answered(self, request: RequestId, _key: UserKey, backend: Backend) -> None:
        waiting = self._waiting.pop(request, None)
        if waiting is not None:
            waiting.backend = backend
            waiting.over.set()

    def refused(self, request: RequestId, reason: str) -> None:
        waiting = self._waiting.pop(request, None)
        if waiting is not None:
            waiting.reason = reason
            waiting.over.set()


class _WaitingLookup:
    """A look-up that waits for its answer."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.backend: Backend | None = None
        self.reason = ""


def _answer(assigner: Assigner, backend: Backend, key: UserKey) -> LookupAnswer:
    """Return the fields that a login process would get in its line."""
    fields = dict(field.split("=", 1) for field in assigner.suffix(backend, key).decode().split("\t")[1:])
    refresh = int(fields.pop("proxy_refresh"))
    return LookupAnswer(address=backend.address, proxy_refresh=refresh, **fields)
