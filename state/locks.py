"""Locks in Redis: of all processes that share a store, only the holder of a lock does a certain task.

python-redis-lock keeps the key (`lock:PREFIX{lock}TASK`). It uses a synchronous client, so all calls run in
worker threads and take a second or two at most. A thread of each lock renews it. The library has no fencing
token, so each holding gets a *generation* in the hash `meta` (field `generation:TASK`), which only rises. A
value that a former holder must not write is written by a script that compares the generation.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import anyio
import redis_lock
from anyio import CapacityLimiter, to_thread
from redis.exceptions import RedisClusterException, RedisError

from state.base import LockLost
from state.redis_clients import Client

EXPIRE = 10
"""Seconds after which the lock of a dead process is free."""
RENEWALS = 3
"""How many times a lock is renewed within `expire` seconds."""
ROUND = 1
"""Seconds of one attempt to take the lock. An attempt cannot be cancelled while it runs."""
RETRY = 0.2
"""Seconds until the next renewal after a renewal that was not answered."""

# Milliseconds: the generation rises even if the hash was lost.
BEGIN = b"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
local generation = string.format('%.0f', math.max(now, last + 1))
redis.call('HSET', KEYS[1], ARGV[1], generation)
return generation
"""
RECORD = b"""
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
return 1
"""

_UNKNOWN = (RedisError, RedisClusterException, OSError)


class RedisLock:
    """A lock and, from `take` to `let_go`, a holding of it.

    Its methods block: call them in worker threads.
    """

    def __init__(self, server: Client, prefix: str, task: str, store: str, *, expire: int = EXPIRE) -> None:
        """Name a lock, without taking it.

        Args:
            server: a synchronous client.
            prefix: the prefix of all keys of this store.
            task: the task that the lock is for.
            store: the name of the store in errors.
            expire: seconds after which a holding that is not renewed ends, at least 1.
        """
        self.task, self.store, self.generation = task, store, 0
        # Both keys share a hash tag. `strict` is off because a Cluster's client is no StrictRedis.
        self._lock = redis_lock.Lock(server, f"{prefix}{{lock}}{task}", expire=expire, strict=False)
        self._server, self._meta, self._field = server, f"{prefix}meta", f"generation:{task}"
        self._expire = expire
        self._lost = False
        self._until = 0.0
        self._over = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name=f"lock {task}", daemon=True)
        self._changed: Callable[[], None] = lambda: None

    @property
    def lost(self) -> bool:
        """Whether another process may hold the lock by now. Once true, it stays true."""
        if time.monotonic() >= self._until:
            self._lost = True  # not renewed in time, or this process was suspended
        return self._lost

    @property
    def remaining(self) -> float:
        """Seconds until the lock is lost unless it is renewed."""
        return 0.0 if self._lost else self._until - time.monotonic()

    def tell(self, changed: Callable[[], None]) -> None:
        """Call `changed`, in the renewing thread, each time that the lock was renewed or lost."""
        self._changed = changed

    def take(self, seconds: int) -> bool:
        """Wait up to `seconds` (at least 1) for the lock, and return whether this process holds it.

        Raises:
            RedisError, RedisClusterException: the server refuses or does not answer.
        """
        if not self._lock.acquire(timeout=seconds):
            return False
        try:
            self._extend()
            begin = self._server.register_script(BEGIN)
            self.generation = int(cast(bytes, begin(keys=[self._meta], args=[self._field])))
        except BaseException:
            self._release()
            raise
        self._renewer.start()
        return True

    def record(self, field: str, value: str) -> None:
        """Write a field of `meta`, if this is the latest holding.

        Raises:
            LockLost: this holding has ended.
            RedisError: the server refuses or does not answer.
        """
        try:
            self._extend()
        except redis_lock.NotAcquired:
            self._lost = True
        if self.lost:
            raise LockLost(self.store, self.task)
        record = self._server.register_script(RECORD)
        if not record(keys=[self._meta], args=[self._field, str(self.generation), field, value]):
            self._lost = True
            raise LockLost(self.store, self.task)

    def let_go(self) -> None:
        """Release the lock. If the server does not answer, the lock expires by itself."""
        self._over.set()
        self._renewer.join(ROUND)  # do not wait for a server that hangs: a late renewal finds no key
        if not self.lost:
            self._release()

    def _release(self) -> None:
        with contextlib.suppress(redis_lock.NotAcquired, *_UNKNOWN):
            self._lock.release()

    def _extend(self) -> None:
        begun = time.monotonic()
        self._lock.extend()
        self._until = begun + self._expire

    def _renew(self) -> None:
        """Renew the lock until it is released or lost. Runs in the renewing thread."""
        pause = self._expire / RENEWALS
        while not self._over.wait(pause):
            try:
                if self.lost:
                    break
                self._extend()
                pause = self._expire / RENEWALS
            except (redis_lock.NotAcquired, redis_lock.NotExpirable):
                self._lost = True
                break
            except _UNKNOWN:
                pause = RETRY  # this process may still hold the lock
            self._changed()
        self._changed()


async def take(lock: RedisLock, wait: float) -> bool:
    """Try for `wait` seconds, at least once, and return whether this process holds the lock.

    Raises:
        RedisError, RedisClusterException: the server refuses or does not answer.
    """
    thread = CapacityLimiter(1)
    deadline = time.monotonic() + wait
    while not await to_thread.run_sync(lock.take, ROUND, limiter=thread):
        if time.monotonic() >= deadline:
            return False
    return True


async def let_go(lock: RedisLock) -> None:
    """Release the lock, even if the calling task is cancelled meanwhile."""
    with anyio.CancelScope(shield=True):  # bounded by the client's own time-outs
        await to_thread.run_sync(lock.let_go, limiter=CapacityLimiter(1))


@asynccontextmanager
async def while_held(lock: RedisLock) -> AsyncIterator[None]:
    """Cancel the block as soon as the lock is lost, and raise LockLost then, whatever the block raised."""
    loop = asyncio.get_running_loop()
    over = False

    def review() -> None:
        if over:
            return
        if lock.lost:
            scope.cancel()
        else:
            # Not with anyio's functions: a callback of the loop has no task.
            scope.deadline = loop.time() + lock.remaining

    def changed() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(review)

    try:
        with anyio.CancelScope() as scope:
            lock.tell(changed)
            review()
            yield
    except Exception as exc:
        if lock.lost:
            raise LockLost(lock.store, lock.task) from exc
        raise
    finally:
        over = True
    if scope.cancelled_caught or lock.lost:
        raise LockLost(lock.store, lock.task)
