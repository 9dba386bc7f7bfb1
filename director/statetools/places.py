"""A store as the tools open it: looked at first, so that none of them migrates, creates or moves anything by
the way, and with its errors in the words of the command line."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import msgspec

from director.errors import EX_CONFIG, EX_TRY_AGAIN, EX_UNAVAILABLE, StoreProblem
from state.base import AuditEntry, Layout, SchemaTooNew, StateStore, StoreBusy, StoreError, StoreUrlError
from state.urls import open_store

TIMEOUT = 10.0
"""Seconds for one exchange with the store: nobody's login waits for it."""
SAY_EVERY = 0.2
"""Seconds from one word about a migration to the next."""


class StorePlace(msgspec.Struct, frozen=True):
    """Which store: its URL, and the folder where relative paths in it start."""

    url: str
    folder: Path


def store_at(place: StorePlace, *, beside: bool = False) -> StateStore:
    """The store, not open. beside: to be read while a director has it to itself.

    Raises StoreProblem where there can be nothing to see."""
    if place.url == "memory:":
        text = "state = memory: ends with the director that uses it; name another store with --store"
        raise StoreProblem(text, EX_CONFIG)
    with problems():
        return open_store(place.url, base_dir=place.folder, timeout=TIMEOUT, beside=beside)


async def layout_of(store: StateStore) -> Layout:
    """Raises StoreProblem, also for a store that is newer than this program."""
    with problems():
        layout = await store.layout()
        if layout.found > layout.known:
            raise SchemaTooNew(store.url, layout.found, layout.known)
    return layout


async def readable(place: StorePlace) -> tuple[StateStore, Layout]:
    """The store, not open, and its layout; only for reading.

    A file is opened as beside a director, whether it has one or not: a store that is open for writing sets a
    damaged file aside as soon as it is met."""
    store = store_at(place)
    with problems():
        try:
            if not (await store.layout()).found:
                return store, await layout_of(store)
        except StoreBusy:
            pass
    store = store_at(place, beside=True)
    return store, await layout_of(store)


@asynccontextmanager
async def opened(
    place: StorePlace, *, create: bool = False, reading: bool = False
) -> AsyncIterator[tuple[StateStore, int]]:
    """The store, open, and its schema. create: make it where there is none. reading: nothing is written, so a
    director may have it to itself.

    Raises StoreProblem, also for what goes wrong with the store while it is used, and for one of an older
    schema: to bring it up to date is for whoever means to. While directors hold it there, it is served so.
    """
    if reading:
        store, layout = await readable(place)
    else:
        store = store_at(place)
        layout = await layout_of(store)
    if not layout.found and not create:
        raise StoreProblem(f"{store.url}: there is nothing: no director has used this store yet")
    if layout.found and layout.steps and not layout.held_by:
        text = f"{store.url} has schema {layout.found}, this program works with {layout.known}"
        raise StoreProblem(f"{text}: run `director migrate` first", EX_CONFIG)
    try:
        with problems():
            await store.open()
            yield store, store.schema
    finally:
        await store.close()


@asynccontextmanager
async def opened_for_import(place: StorePlace, *, dry_run: bool) -> AsyncIterator[StateStore]:
    """The store, made where there is none; for a dry run an empty one in its stead. Raises StoreProblem."""
    if dry_run and not (await layout_of(store_at(place))).found:
        nothing = open_store("memory:", base_dir=place.folder)
        await nothing.open()
        with problems():
            yield nothing
        return
    async with opened(place, create=True) as (store, _):
        yield store


async def migrated(
    store: StateStore, layout: Layout, done: Callable[[str], AuditEntry], say: Callable[[str], None]
) -> None:
    """Open the store, which runs the steps it lacks. done: an entry for the audit, from what was done.

    say: is told which step runs, and for how long. The store stays open. Raises StoreProblem, also where
    directors are alive that would be cut off.
    """
    failed: StoreProblem | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_tell, store, say)
        try:
            with problems():
                refuse_held(store, layout.held_by)
                await store.open()
                refuse_held(store, store.held_by)
                if layout.steps:
                    await store.append_audit([done(f"from schema {layout.found} to {store.schema}")])
        except StoreProblem as exc:  # not through the task group, which would wrap it
            failed = exc
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed


def refuse_held(store: StateStore, held_by: Sequence[str]) -> None:
    """Raises StoreProblem if there is anybody in it."""
    if held_by:
        text = f"{store.url}: directors are alive that know no newer schema: {', '.join(held_by)}"
        raise StoreProblem(f"{text}; upgrade or stop them, then run it again", EX_TRY_AGAIN)


async def _tell(store: StateStore, say: Callable[[str], None]) -> None:
    step, begun = store.step, time.monotonic()
    while True:
        if store.step != step:
            step, begun = store.step, time.monotonic()
        if step is not None:
            say(f"step {step.number}, {time.monotonic() - begun:.0f} s")
        await anyio.sleep(SAY_EVERY)


@contextmanager
def problems() -> Iterator[None]:
    """Errors of stores as StoreProblem."""
    try:
        yield
    except StoreError as exc:
        code = EX_CONFIG if isinstance(exc, SchemaTooNew | StoreUrlError) else EX_UNAVAILABLE
        raise StoreProblem(str(exc), code) from exc
