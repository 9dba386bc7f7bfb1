"""Runs the migration steps of Redis.

Redis has no transaction over several commands. Therefore a step can be run again after an interruption, and
only one process runs steps: the holder of the lock `migrate`, in a worker thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import cast

import redis
from anyio import to_thread

from state.base import LockLost, SchemaTooNew, Step, StoreUnavailable
from state.locks import RedisLock, let_go, take
from state.migrate import RedisStep, redis_schema
from state.redis_clients import Client

LOCK_WAIT = 30.0
"""Seconds to wait for a migration by another director."""


async def migrate_redis(
    server: Client,
    prefix: str,
    store: str,
    steps: Sequence[RedisStep],
    wanted: Callable[[], Awaitable[int]],
    *,
    begun: Callable[[Step], None],
    wait: float = LOCK_WAIT,
) -> None:
    """Run the steps that a store lacks, unless another director runs them first.

    If interrupted, the steps that are recorded as done stay done, and the interrupted step is run again
    later.

    Args:
        server: a synchronous client, used in a worker thread only.
        prefix: the prefix of all keys of this store.
        store: the name of the store in errors.
        steps: all steps that this program knows, in order.
        wanted: returns the newest schema that may be made. It is called while this process holds the lock.
        begun: called in the worker thread with each step before it runs.
        wait: seconds to wait for a director that is migrating.

    Raises:
        SchemaTooNew: a newer program wrote the store.
        StoreUnavailable: the lock was held by another director, or was lost.
        redis.RedisError: the server refuses, or does not answer.
    """
    lock = RedisLock(server, prefix, "migrate", store)
    if not await take(lock, wait):
        raise StoreUnavailable(store, "migrate", reason="another director holds the migration lock")
    try:
        newest = await wanted()
        run = partial(_run_redis_steps, lock, server, prefix, store, newest=newest, begun=begun)
        await to_thread.run_sync(run, steps)
    except LockLost as exc:
        raise StoreUnavailable(store, "migrate", reason="the migration lock was lost") from exc
    finally:
        await let_go(lock)


def _run_redis_steps(
    lock: RedisLock,
    server: Client,
    prefix: str,
    store: str,
    steps: Sequence[RedisStep],
    newest: int,
    begun: Callable[[Step], None],
) -> None:
    found = redis_schema(cast("bytes | None", server.hget(f"{prefix}meta", "schema")))
    if found > len(steps):
        raise SchemaTooNew(store, found, len(steps))
    for step in steps[found:newest]:
        begun(Step(number=step.number, title=step.title))
        step.run(cast(redis.Redis, server), prefix)  # a Cluster's client has the same commands
        # Raises LockLost if another director holds the lock by now; that director records the step.
        lock.record("schema", str(step.number))
