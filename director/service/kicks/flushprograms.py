"""Flush programs that run: one for each moving user who had a host, if a program is configured."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.abc

from director.core.moves.movingusers import MOVE_TIMEOUT
from director.core.protocol.effects import RunFlush
from director.core.protocol.events import Event, FlushEnded
from director.net.flushprogram import run_flush
from director.service.log import Log
from director.wire.flushprogram import FlushRequest
from state.resolver import Resolver


class FlushPrograms:
    def __init__(self, setting: str, handle: Callable[[Event], None], log: Log, resolver: Resolver) -> None:
        """setting: `users.flush_socket`, checked."""
        self._setting, self._handle, self._log, self._resolver = setting, handle, log, resolver
        self._tasks: anyio.abc.TaskGroup | None = None
        self._running: dict[int, anyio.CancelScope] = {}

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run programs until cancelled; then running programs are stopped."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            await anyio.sleep_forever()

    def start(self, number: int, effect: RunFlush) -> None:
        """Start a program. `FlushEnded` follows, unless it is stopped."""
        assert self._tasks is not None
        self._running[number] = anyio.CancelScope()
        self._tasks.start_soon(self._flush, number, effect)

    def stop(self, number: int) -> None:
        """Stop a program whose result is not needed any more: close its connection, or kill it."""
        scope = self._running.pop(number, None)
        if scope is not None:
            scope.cancel()

    async def _flush(self, number: int, effect: RunFlush) -> None:
        old, new = effect.old, effect.new
        request = FlushRequest(
            hash32=effect.hash32,
            old_host=old.address if old is not None else "",
            new_host=new.address if new is not None else "",
            old_up=old.up if old is not None else False,
            old_weight=old.weight if old is not None else 0,
            hostname=new.hostname if new is not None else "",
        )
        scope = self._running.get(number)
        if scope is None:
            return
        with scope:
            result = await run_flush(self._setting, request, MOVE_TIMEOUT, self._resolver.addresses)
            if not result.ok:
                self._log.error(
                    "flush_program_failed",
                    program=self._setting,
                    hash=effect.hash32,
                    host=request.old_host,
                    reason=result.problem,
                    output=" | ".join(result.output) or None,
                    note="the move continues; the user waits for users.kick_delay instead",
                )
            self._running.pop(number, None)
            self._handle(FlushEnded(number, result.ok))
