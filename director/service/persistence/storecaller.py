"""Carries out the calls of procedures on a state store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from director.core.protocol.effects import Level, LogEvent
from director.core.protocol.events import Event
from director.service.log import Log
from director.stored.storecalls import (
    AppendAudit,
    Call,
    CloseStore,
    LoadBuckets,
    Note,
    OpenStore,
    Pause,
    Procedure,
    ReadBuckets,
    ReadDocument,
    ReadLeases,
    ReadRunId,
    ReadSecondCopy,
    ReadVersions,
    ReleaseLease,
    RenewLease,
    SetAside,
    StoreFacts,
    SwapBuckets,
    SwapDocument,
    Tell,
    Wait,
)
from state.aside import set_aside
from state.base import Bucket, Space, StateStore, StoreError

Result = TypeVar("Result")


class StoreCaller:
    def __init__(self, store: StateStore, handle: Callable[[Event], None], log: Log) -> None:
        """handle: takes the events for the director."""
        self._store, self._handle, self._log = store, handle, log
        self._batches: dict[Space, AsyncIterator[list[Bucket]]] = {}
        """Running loads, by space."""

    async def answer(self, call: Call) -> Any:
        """Return the answer to a call. Raises StoreError."""
        store = self._store
        match call:
            case Pause():
                return await anyio.lowlevel.checkpoint()
            case Tell(event):
                return self._handle(event)
            case Note(line):
                return self.note(line)
            case ReadBuckets(space, numbers):
                return await store.read_buckets(space, numbers)
            case SwapBuckets(swaps):
                return await store.swap_buckets(swaps)
            case ReadVersions(space):
                return await store.versions(space)
            case LoadBuckets(space, begins):
                return await self._next_batch(space, begins=begins)
            case ReadDocument(name):
                return await store.read_document(name)
            case SwapDocument(name, version, data):
                return await store.swap_document(name, version, data)
            case ReadSecondCopy(name):
                return await store.second_copy(name)
            case SetAside(name, data):
                return await set_aside(store, name, data)
        return await self._answer_rarely(call)

    async def _answer_rarely(self, call: Call) -> Any:
        store = self._store
        match call:
            case RenewLease(lease, ttl):
                return await store.renew(lease, ttl)
            case ReadLeases():
                return await store.members()
            case ReleaseLease(member):
                return await store.release(member)
            case AppendAudit(entries):
                return await store.append_audit(entries)
            case OpenStore():
                await store.open()
                return self._facts("")
            case ReadRunId():
                return self._facts(await store.run_id())
            case CloseStore():
                return await store.close()
        raise AssertionError(f"no store carries out {call}")

    async def carried_out(self, procedure: Procedure[Result]) -> Result:
        """Return the result of a procedure that waits for nothing except its calls. Raises StoreError."""
        answer, error = None, None
        while True:
            try:
                call = procedure.send(answer) if error is None else procedure.throw(error)
            except StopIteration as end:
                result: Result = end.value
                return result
            assert not isinstance(call, Wait), "only the runner of the persistence core waits"
            answer, error = None, None
            try:
                answer = await self.answer(call)
            except StoreError as exc:
                error = exc

    def note(self, line: LogEvent) -> None:
        """Write an event to the log."""
        match line.level:
            case Level.DEBUG:
                self._log.debug(line.event, **line.fields)
            case Level.INFO:
                self._log.info(line.event, **line.fields)
            case Level.WARNING:
                self._log.warning(line.event, **line.fields)
            case Level.ERROR:
                self._log.error(line.event, **line.fields)

    def _facts(self, run_id: str) -> StoreFacts:
        store = self._store
        aside = "" if store.set_aside is None else str(store.set_aside)
        return StoreFacts(run_id, store.schema, store.held_by, aside)

    async def _next_batch(self, space: Space, *, begins: bool) -> list[Bucket] | None:
        if begins:
            self._batches[space] = self._store.load_buckets(space)
        return await anext(self._batches[space], None)
