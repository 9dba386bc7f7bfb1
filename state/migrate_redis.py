"""Runs the steps of Redis. It has no transactions over several commands, so a step can be run again after an
interruption, and only one process runs them: the holder of a lock of python-redis-lock
(`lock:PREFIX{lock}migrate`), which is why this needs a synchronous client in a worker thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import anyio
import redis
import redis_lock
from anyio import CapacityLimiter, to_thread

from state.base import SchemaTooNew, Step, StoreUnavailable
from state.migrate import RedisStep, redis_schema
from state.redis_link import Client

LOCK_EXPIRE = 10
"""Seconds after which the lock of a director that died is free. Renewed while the holder lives."""
LOCK_ROUND = 1
"""Seconds of one attempt to get the lock: it cannot be cancelled while it runs."""
LOCK_WAIT = 30.0
"""Seconds to wait for another director's migration."""


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
    """Run the steps that the data under `prefix` lack, unless another director does it first.

    server: a synchronous client; used in a worker thread only. wanted: gives the newest schema that may be
    made; asked when nobody else can make one. begun: is told of each step, in that thread.
    wait: seconds to wait for a director that is migrating.
    Interrupted: steps recorded as done stay so, the one in between runs again.
    Raises SchemaTooNew, StoreUnavailable (the lock was not to be had, or was lost), redis.RedisError.
    """
    thread = CapacityLimiter(1)
    name = (
        f"{prefix}{{lock}}migrate"  # its keys share a hash tag; strict: a Cluster's client is no StrictRedis
    )
    lock = redis_lock.Lock(server, name, expire=LOCK_EXPIRE, auto_renewal=True, strict=False)
    deadline = time.monotonic() + wait
    while not await to_thread.run_sync(lambda: lock.acquire(timeout=LOCK_ROUND), limiter=thread):
        if time.monotonic() >= deadline:
            raise StoreUnavailable(store, "migrate", reason="another director holds the migration lock")
    try:
        newest = await wanted()
        await to_thread.run_sync(
            _run_redis_steps, lock, server, prefix, store, steps, newest, begun, limiter=thread
        )
    except redis_lock.NotAcquired as exc:
        raise StoreUnavailable(store, "migrate", reason="the migration lock was lost") from exc
    finally:
        with anyio.CancelScope(shield=True):  # bounded by the client's own time-outs
            await to_thread.run_sync(_let_go, lock, limiter=thread)


def _run_redis_steps(
    lock: redis_lock.Lock,
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
        lock.extend()  # fails if somebody else has it by now: then he records what is done
        server.hset(f"{prefix}meta", "schema", str(step.number))


def _let_go(lock: redis_lock.Lock) -> None:
    with contextlib.suppress(redis_lock.NotAcquired, redis.RedisError):  # it expires by itself
        lock.release()
