"""Opening a store for the tools.

The layout is read first, so that no tool migrates, creates or moves anything by accident. Errors of stores
become errors of the command line.
"""

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
"""Seconds for one exchange with the store. It may be long, because no login waits for it."""
REPORT_EVERY = 0.2
"""Seconds between two reports about a migration."""


class StorePlace(msgspec.Struct, frozen=True):
    """The URL of a store, and the folder where a relative path in the URL starts."""

    url: str
    folder: Path


def store_at(place: StorePlace, *, beside: bool = False) -> StateStore:
    """The store, not open.

    Args:
        beside: the store is only read, and a director may have it open.

    Raises:
        StoreProblem: the URL is wrong, or is `memory:`.
    """
    if place.url == "memory:":
        text = "state = memory: is inside the running director; name another store with --store"
        raise StoreProblem(text, EX_CONFIG)
    with problems():
        return open_store(place.url, base_dir=place.folder, timeout=TIMEOUT, beside=beside)


async def layout_of(store: StateStore) -> Layout:
    """The layout of the store.

    Raises:
        StoreProblem: the store is unreachable, or newer than this program.
    """
    with problems():
        layout = await store.layout()
        if layout.found > layout.known:
            raise SchemaTooNew(store.url, layout.found, layout.known)
    return layout


async def readable(place: StorePlace) -> tuple[StateStore, Layout]:
    """The store, not open and only for reading, and its layout.

    A file is opened as if a director had it open: a store that is open for writing would move a damaged file
    away.

    Raises:
        StoreProblem: the store is unreachable, or newer than this program.
    """
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
    """The open store and its schema.

    A store with an older schema is refused: only `director migrate` upgrades it. If running directors keep it
    from being upgraded, it is used as it is.

    Args:
        create: make the store if it does not exist.
        reading: nothing is written, so a director may have the store open.

    Raises:
        StoreProblem: the store cannot be opened, has an older schema, or fails while it is used.
    """
    if reading:
        store, layout = await readable(place)
    else:
        store = store_at(place)
        layout = await layout_of(store)
    if not layout.found and not create:
        raise StoreProblem(f"{store.url}: empty: no director has used this store yet")
    if layout.found and layout.steps and not layout.held_by:
        text = f"{store.url} has schema {layout.found}, this program needs {layout.known}"
        raise StoreProblem(f"{text}: run `director migrate` first", EX_CONFIG)
    try:
        with problems():
            await store.open()
            yield store, store.schema
    finally:
        await store.close()


@asynccontextmanager
async def opened_for_import(place: StorePlace, *, dry_run: bool) -> AsyncIterator[StateStore]:
    """The open store. A store that does not exist is made; for a dry run an empty store is used instead.

    Raises:
        StoreProblem: the store cannot be opened, has an older schema, or fails while it is used.
    """
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
    """Open the store, which runs the missing steps. The store stays open.

    Args:
        done: makes the entry for the audit from a description of what was done.
        say: called with the running step and its duration.

    Raises:
        StoreProblem: the store fails, or running directors do not know the newer schema.
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
    """Refuse to migrate while directors run that do not know the newer schema.

    Raises:
        StoreProblem: `held_by` is not empty.
    """
    if held_by:
        text = f"{store.url}: running directors do not know the newer schema: {', '.join(held_by)}"
        raise StoreProblem(f"{text}; upgrade or stop them, then run `director migrate` again", EX_TRY_AGAIN)


async def _tell(store: StateStore, say: Callable[[str], None]) -> None:
    step, begun = store.step, time.monotonic()
    while True:
        if store.step != step:
            step, begun = store.step, time.monotonic()
        if step is not None:
            say(f"step {step.number}, {time.monotonic() - begun:.0f} s")
        await anyio.sleep(REPORT_EVERY)


@contextmanager
def problems() -> Iterator[None]:
    """Turn errors of stores into StoreProblem."""
    try:
        yield
    except StoreError as exc:
        code = EX_CONFIG if isinstance(exc, SchemaTooNew | StoreUrlError) else EX_UNAVAILABLE
        raise StoreProblem(str(exc), code) from exc
