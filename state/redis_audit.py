"""The audit in Redis: a stream, limited in its length and in the age of its entries."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from state.audit import AUDIT_AGE, bounded, bounded_text, oldest_kept
from state.base import AUDIT_KEPT, AuditEntry
from state.redis_errors import unreadable
from state.redis_link import Link
from state.redis_scripts import MEMBERS_SHA

PAGE = 1000
"""Entries read in one command."""
LOOK_EVERY = 3600.0
"""Seconds between two searches for entries that are too old."""

_decode_entry = msgspec.msgpack.Decoder(AuditEntry).decode


class RedisAudit:
    def __init__(self, url: str, prefix: str) -> None:
        """Begin without a connection.

        Args:
            url: of the store, for errors.
            prefix: of all keys of the store.
        """
        self._url = url
        self._key, self._lease_key = f"{prefix}audit", f"{prefix}lease"
        self._looked_at = float("-inf")
        """Monotonic time of the last search for entries that are too old."""

    async def append(self, link: Link, entries: Sequence[AuditEntry]) -> None:
        """Add entries, and delete those that are too many or too old."""
        young = await self._young(link)
        bound = ("~", AUDIT_KEPT) if young is None else ("=", young + len(entries))
        add = ("XADD", self._key, "MAXLEN", *bound, "*", "e")
        commands = [(*add, msgspec.msgpack.encode(entry)) for entry in bounded(entries)]
        await link.call("append_audit", commands)

    async def _young(self, link: Link) -> int | None:
        """Count the entries that are younger than AUDIT_AGE.

        XTRIM MINID would be simpler. It needs Redis 6.2, and a permission that Redis users made for earlier
        releases lack.

        Returns:
            The number; None: no entry is older, or the last search was less than LOOK_EVERY ago.
        """
        now = time.monotonic()
        if now < self._looked_at + LOOK_EVERY:
            return None
        # Use the earlier of both clocks: if this machine's clock is ahead, its time alone would delete young
        # entries.
        asked = ("EVALSHA", MEMBERS_SHA, 1, self._lease_key)
        (((seconds, _), _),) = await link.call("append_audit", [asked])
        oldest = b"%d" % max(0, min(oldest_kept(), int(seconds) - AUDIT_AGE) * 1000)
        (old,) = await link.call("append_audit", [("XREVRANGE", self._key, oldest, "-", "COUNT", 1)])
        self._looked_at = now
        if not old:
            return None
        young, last = 0, b"+"
        while True:
            (page,) = await link.call("append_audit", [("XREVRANGE", self._key, last, oldest, "COUNT", PAGE)])
            young += len(page)
            if len(page) < PAGE:
                return young
            last = _before(page[-1][0])

    async def latest(self, link: Link, limit: int, *, since: float, target: str | None) -> list[AuditEntry]:
        """Return the latest entries, the newest first.

        Args:
            link: the connection to the server.
            limit: how many entries are returned at most.
            since: Unix time; earlier entries are left out.
            target: entries about other targets are left out; None: none is.
        """
        since, target = max(since, oldest_kept()), None if target is None else bounded_text(target)
        found: list[AuditEntry] = []
        last = b"+"
        while len(found) < limit:
            command = ("XREVRANGE", self._key, last, "-", "COUNT", PAGE)
            (page,) = await link.call("audit", [command])
            for number, fields in page:
                try:
                    entry = _decode_entry(fields[1])
                except ValueError as exc:
                    raise unreadable(self._url, "audit", f"XDEL {self._key} {number.decode()}") from exc
                if entry.at >= since and target in (None, entry.target):
                    found.append(entry)
            if len(page) < PAGE:
                break
            last = _before(page[-1][0])
        return found[:limit]


def _before(entry: bytes) -> bytes:
    """Return the id just before that of a stream entry. (Exclusive ranges need Redis 6.2.)"""
    ms, _, sequence = entry.partition(b"-")
    if int(sequence):
        return b"%d-%d" % (int(ms), int(sequence) - 1)
    return b"%d" % (int(ms) - 1)
